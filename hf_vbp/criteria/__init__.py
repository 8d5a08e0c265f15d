"""Criteria: which hidden neurons matter least, as one score each. Pure tensors."""

from hf_vbp.criteria.base import (
    CRITERIA,
    Criterion,
    MomentsLike,
    Ranking,
    SiteStatisticsLike,
    SiteWeights,
    covariance_of,
    rank,
    register_criterion,
)
from hf_vbp.criteria.obs import elimination_curves, obs
from hf_vbp.criteria.simple import magnitude, random, variance, weighted_variance
from hf_vbp.criteria.snip import snip

__all__ = [
    "CRITERIA",
    "Criterion",
    "MomentsLike",
    "Ranking",
    "SiteStatisticsLike",
    "SiteWeights",
    "covariance_of",
    "elimination_curves",
    "magnitude",
    "obs",
    "random",
    "rank",
    "register_criterion",
    "snip",
    "variance",
    "weighted_variance",
]

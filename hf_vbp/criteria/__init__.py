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
from hf_vbp.criteria.simple import magnitude, random, variance, weighted_variance

__all__ = [
    "CRITERIA",
    "Criterion",
    "MomentsLike",
    "Ranking",
    "SiteStatisticsLike",
    "SiteWeights",
    "covariance_of",
    "magnitude",
    "random",
    "rank",
    "register_criterion",
    "variance",
    "weighted_variance",
]

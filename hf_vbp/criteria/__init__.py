"""Criteria: one score per hidden neuron; the lowest are removed first. One file per criterion; pure tensors.

Importing this package registers the built-in criteria.
"""

from hf_vbp.adapters.site_weights import SiteWeights
from hf_vbp.criteria.base import Criterion, Ranking, rank, register_criterion
from hf_vbp.criteria.magnitude import Magnitude
from hf_vbp.criteria.obs import Obs, elimination_curves
from hf_vbp.criteria.random import Random
from hf_vbp.criteria.snip import Snip
from hf_vbp.criteria.variance import Variance
from hf_vbp.criteria.weighted_variance import WeightedVariance

__all__ = [
    "Criterion",
    "Magnitude",
    "Obs",
    "Random",
    "Ranking",
    "SiteWeights",
    "Snip",
    "Variance",
    "WeightedVariance",
    "elimination_curves",
    "rank",
    "register_criterion",
]

"""The mean shift of the paper."""

from dataclasses import dataclass

from torch import Tensor

from hf_vbp.adapters.site_weights import SiteWeights
from hf_vbp.compensation.base import Compensated, Compensation, register_compensation, shifted
from hf_vbp.compensation.least_squares import complement
from hf_vbp.config.requirements import Requirements
from hf_vbp.statistics.joint import JointMoments
from hf_vbp.statistics.site_statistics import SiteStatistics


@register_compensation
@dataclass(frozen=True)
class Mean(Compensation):
    """Add the mean output of the removed neurons to the bias (the paper's mean shift, section 3.3).

    ``fc2_bias' = fc2_bias + fc2_weight[:, P] mean_P``.
    """

    name = "mean"

    @property
    def requires(self) -> Requirements:
        """A bias, to which the mean is added."""
        return Requirements(bias=True)

    def fit(self, weights: SiteWeights, kept: Tensor, site: SiteStatistics) -> Compensated:
        """Return the kept columns and the shifted bias."""
        pruned = complement(kept, weights.hidden)
        shift = weights.fc2_weight[:, pruned] @ site.moments.mean[pruned]
        return Compensated(weights.fc2_weight[:, kept], shifted(weights.fc2_bias, shift))

    def refit(self, fitted: Compensated, joint: JointMoments) -> Compensated:
        """Return the bias that gives the mean of the dense outputs."""
        hidden, output = joint.mean[: joint.hidden], joint.mean[joint.hidden :]
        return Compensated(fitted.weight, output - fitted.weight @ hidden)

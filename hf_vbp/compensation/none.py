"""No compensation."""

from dataclasses import dataclass

from torch import Tensor

from hf_vbp.adapters.site_weights import SiteWeights
from hf_vbp.compensation.base import Compensated, Compensation, register_compensation
from hf_vbp.statistics.site_statistics import SiteStatistics


@register_compensation
@dataclass(frozen=True)
class NoCompensation(Compensation):
    """Delete the columns of the removed neurons and change nothing else."""

    name = "none"

    def fit(self, weights: SiteWeights, kept: Tensor, site: SiteStatistics) -> Compensated:
        """Return the kept columns and the bias unchanged."""
        return Compensated(weights.fc2_weight[:, kept], weights.fc2_bias)

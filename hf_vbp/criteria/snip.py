"""SNIP on whole neurons, a baseline of the paper."""

from collections.abc import Sequence
from dataclasses import dataclass

from hf_vbp.adapters.site_weights import SiteWeights
from hf_vbp.config.requirements import Requirements
from hf_vbp.criteria.base import Criterion, Ranking, register_criterion
from hf_vbp.errors import StatisticsError
from hf_vbp.statistics.site_statistics import SiteStatistics


@register_criterion
@dataclass(frozen=True)
class Snip(Criterion):
    """Connection sensitivity of whole neurons (SNIP, Lee et al. 2019; the paper's baseline, section 4).

    The score is ``|dL/dc_j|`` at ``c = 1``, where ``c_j`` multiplies hidden neuron ``j`` and ``L`` is the mean
    cross-entropy; by the chain rule, the change of the loss to first order when the neuron is removed.
    """

    name = "snip"

    @property
    def requires(self) -> Requirements:
        """The saliency, from a pass with gradients over the images."""
        return Requirements(saliency=True)

    def rank(self, statistics: Sequence[SiteStatistics], weights: Sequence[SiteWeights]) -> list[Ranking]:
        """Return the absolute saliency as scores.

        Raises:
            StatisticsError: The statistics hold no saliency.
        """
        rankings = []
        for site in statistics:
            if site.saliency is None:
                raise StatisticsError(
                    f"the statistics of site {site.name!r} hold no saliency, which criterion 'snip' needs; "
                    "gather them for this criterion (on the command line: hf-vbp stats --criterion snip)"
                )
            rankings.append(Ranking.from_scores(site.saliency.abs()))
        return rankings

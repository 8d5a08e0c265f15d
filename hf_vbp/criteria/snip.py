"""SNIP on whole neurons: needs gradients, which :func:`hf_vbp.calibration.saliency.collect_saliency` gathers."""

from collections.abc import Sequence

from torch import Tensor

from hf_vbp.criteria.base import Ranking, SiteStatisticsLike, SiteWeights, register_criterion
from hf_vbp.errors import ConfigurationError


@register_criterion("snip")
def snip(
    statistics: Sequence[SiteStatisticsLike],
    weights: Sequence[SiteWeights],
    *,
    saliency: Sequence[Tensor] | None = None,
) -> list[Ranking]:
    """Connection sensitivity of whole neurons (SNIP, Lee et al. 2019; the paper's baseline, section 4).

    The score is ``|dL/dc_j|`` at ``c = 1``, where ``c_j`` multiplies hidden neuron ``j`` and ``L`` is the mean
    cross-entropy; by the chain rule, what removing the neuron changes in the loss to first order.

    Args:
        statistics: Not used.
        weights: Tell the number of neurons.
        saliency: ``(hidden,)`` for each site, from :func:`hf_vbp.calibration.saliency.collect_saliency`.

    Raises:
        ConfigurationError: No saliency was given, or it does not fit the sites.
    """
    if saliency is None:
        raise ConfigurationError(
            "criterion 'snip' needs gradients: gather them with hf_vbp.calibration.saliency.collect_saliency and "
            "pass them as saliency=..."
        )
    shapes = [tuple(site_saliency.shape) for site_saliency in saliency]
    expected = [(site_weights.hidden,) for site_weights in weights]
    if shapes != expected:
        raise ConfigurationError(f"the saliency has the shapes {shapes}, and {expected} are needed")
    return [Ranking.from_scores(site_saliency.abs()) for site_saliency in saliency]

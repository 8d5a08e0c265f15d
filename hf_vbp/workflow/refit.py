"""Refit ``fc2`` where a normalization mixes the neurons of an MLP."""

import warnings
from collections.abc import Iterable
from typing import Any

from torch import nn

from hf_vbp.adapters.prepared import PreparedModel
from hf_vbp.adapters.registry import find_sites
from hf_vbp.adapters.site_weights import SiteWeights
from hf_vbp.calibration.joint_moments import collect_joint_moments
from hf_vbp.calibration.source import Source
from hf_vbp.compensation.base import Compensated, CompensationWarning
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.pruning.apply_plan import set_down


def refit_mixed_sites(
    dense: PreparedModel,
    pruned: nn.Module,
    config: VBPConfig,
    data: Iterable[Any] | Source | None,
    limit: int | None = None,
) -> None:
    """Refit ``fc2`` of the sites that mix their neurons, in place, by a second pass over the images.

    Other models are not changed, and their images are not read.

    Args:
        dense: The dense model.
        pruned: The pruned model.
        config: Its compensation is refitted.
        data: As for :func:`hf_vbp.collect_statistics`; without them the sites keep their first fit.
        limit: As for :func:`hf_vbp.collect_statistics`.

    Warns:
        CompensationWarning: There are such sites, but no images, or the dense model was changed in place.
    """
    mixed = [site for site in dense.sites if site.mixes_neurons]
    if not mixed:
        return
    if data is None or pruned is dense.model:
        warnings.warn(
            f"the neurons of {len(mixed)} MLPs ({mixed[0].name}, ...) pass a normalization over all of them, so fc2 "
            "should be refitted on images, which needs data and the dense model (inplace=False). These MLPs keep "
            "their first fit, which is less accurate.",
            CompensationWarning,
            stacklevel=3,
        )
        return
    sites, compensation = find_sites(pruned), config.make_compensation()
    for index, joint in collect_joint_moments(dense, pruned, sites, data, limit=limit).items():
        weights = SiteWeights.of(sites[index])
        set_down(sites[index], compensation.refit(Compensated(weights.fc2_weight, weights.fc2_bias), joint))

"""Refit ``fc2`` where a normalization mixes the neurons of an MLP."""

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from hf_vbp.adapters.base import MLPSite
from hf_vbp.adapters.prepared import PreparedModel
from hf_vbp.adapters.registry import find_sites
from hf_vbp.adapters.site_weights import SiteWeights
from hf_vbp.calibration.joint_moments import collect_joint_moments
from hf_vbp.calibration.source import Source
from hf_vbp.compensation.base import Compensated, CompensationWarning, checked
from hf_vbp.config.users_code import named_in_errors
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.errors import ConfigurationError
from hf_vbp.pruning.site_surgery import set_down


def mixed_sites(prepared: PreparedModel) -> list[MLPSite]:
    """Return the sites whose neurons pass a normalization over all of them (GRN, LayerNorm)."""
    return [site for site in prepared.sites if site.mixes_neurons]


def sites_to_refit(prepared: PreparedModel, widths: Sequence[int]) -> list[MLPSite]:
    """Return the sites that mix their neurons and lose some of them; without a loss a site is exact as it is.

    Args:
        prepared: The dense model.
        widths: The width of each site after pruning, in block order.
    """
    pairs = zip(prepared.sites, widths, strict=True)
    return [site for site, width in pairs if site.mixes_neurons and width < site.intermediate_size]


def refit_mixed_sites(
    dense: PreparedModel,
    pruned: nn.Module,
    config: VBPConfig,
    data: Iterable[Any] | Source,
    limit: int | None = None,
) -> None:
    """Refit ``fc2`` of the :func:`sites_to_refit`, in place, by another pass over the images.

    Args:
        dense: The dense model.
        pruned: The pruned model, another one.
        config: Its compensation is refitted.
        data: As for :func:`hf_vbp.collect_statistics`.
        limit: As for :func:`hf_vbp.collect_statistics`.

    Raises:
        DataError: There are no images.
    """
    sites, compensation = find_sites(pruned), config.make_compensation()
    pairs = [(site, sites[site.index]) for site in sites_to_refit(dense, [site.intermediate_size for site in sites])]
    for index, joint in collect_joint_moments(dense, pruned, pairs, data, limit=limit).items():
        weights, name = SiteWeights.of(sites[index]), sites[index].name
        with named_in_errors(f"refit of compensation {compensation.name!r} for site {name!r}", type(compensation)):
            refitted = compensation.refit(Compensated(weights.fc2_weight, weights.fc2_bias), joint)
        set_down(sites[index], checked(compensation, refitted, name, weights, weights.hidden))


def check_refit(prepared: PreparedModel, source: Source | None, passes: int) -> None:
    """Refuse images that can be read only once where they are needed more often.

    Args:
        prepared: The dense model.
        source: The images.
        passes: Number of passes over them, with that of the statistics.

    Raises:
        ConfigurationError: Some sites mix their neurons, so that ``fc2`` is refitted on the images.
    """
    mixed = mixed_sites(prepared)
    if mixed and source is not None and source.read_once and passes > 1:
        raise ConfigurationError(
            f"The neurons of {len(mixed)} MLPs ({mixed[0].name}, ...) pass a normalization over all of them, so "
            "their down projections are refitted in another pass over the images, but a "
            f"{type(source.loader).__name__} can be iterated only once. Pass a list of batches or a DataLoader."
        )


def warn_without_refit(prepared: PreparedModel, widths: Sequence[int]) -> None:
    """Report the sites that keep their first fit because there are no images.

    Args:
        prepared: The dense model.
        widths: The width of each site after pruning, in block order.

    Warns:
        CompensationWarning: Some of these sites mix their neurons.
    """
    mixed = sites_to_refit(prepared, widths)
    if mixed:
        warnings.warn(
            f"the neurons of {len(mixed)} MLPs ({mixed[0].name}, ...) pass a normalization over all of them, so "
            "their down projections should be refitted on images, which needs data (--data). These MLPs keep their "
            "first fit, whose error is much larger than predicted.",
            CompensationWarning,
            stacklevel=4,
        )

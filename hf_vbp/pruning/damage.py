"""The damage told before the cut: how far the output of every site will move. Pure tensors in float64.

Whatever the compensation, what is kept and folded in changes the output of a site by an affine function of its
hidden neurons, ``V h + v``. Its mean square over the calibration tokens is therefore known exactly from their mean
``m`` and covariance ``C``::

    E|V h + v|_G^2 = trace(G V C V^T) + |V m + v|_G^2

For ``none`` and ``mean`` these are the formulas of the paper's argument; for ``linear`` it is the trace of the Schur
complement ``C_PP - C_PK C_KK^-1 C_KP``, plus what the regularisation costs. Activations are those of the dense
model: how errors of earlier sites change the inputs of later ones is not part of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_vbp.compensation.compensate import compensate
from hf_vbp.compensation.least_squares import expected_error
from hf_vbp.criteria.base import SiteStatisticsLike, SiteWeights, check_fit
from hf_vbp.errors import ConfigurationError


@dataclass(frozen=True)
class SiteDamage:
    """Expected squared output error of one site, per token.

    Attributes:
        name: The site.
        error: ``E|y' - y|_G^2``.
        energy: ``E|y - E[y]|_G^2`` of the dense output: the error of putting a constant in place of the site.
        exact: Whether covariances were at hand; from variances alone, neurons count as uncorrelated.
    """

    name: str
    error: float
    energy: float
    exact: bool

    @property
    def relative(self) -> float:
        """``error / energy``: 0 for an untouched site, 1 for one that became its own mean, more when worse."""
        return self.error / self.energy if self.energy > 0 else float(self.error > 0)


@dataclass(frozen=True)
class Damage:
    """Expected damage to all sites.

    Attributes:
        sites: One per site, in block order.
        metric: ``"gradient"`` when output errors are weighted by ``G = E[g g^T]``, else ``"identity"``.
    """

    sites: tuple[SiteDamage, ...]
    metric: str

    @property
    def relative(self) -> float:
        """Sum of the errors over sum of the energies."""
        energy = sum(site.energy for site in self.sites)
        return sum(site.error for site in self.sites) / energy if energy > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers for the plan and the results."""
        return {
            "relative_output_error": self.relative,
            "relative_output_error_by_site": [site.relative for site in self.sites],
            "metric": self.metric,
            "exact": all(site.exact for site in self.sites),
        }


def predict_damage(
    compensation: str,
    statistics: Sequence[SiteStatisticsLike],
    weights: Sequence[SiteWeights],
    kept: Sequence[Tensor],
    *,
    metric: str = "auto",
    options: Mapping[str, Any] | None = None,
) -> Damage:
    """Tell how far the output of every site moves on the calibration data.

    Args:
        compensation: A key of :data:`hf_vbp.compensation.compensate.COMPENSATIONS`.
        statistics: One per site. With covariances the result is exact.
        weights: The dense weights, one per site.
        kept: ``(kept,)`` int64 for each site.
        metric: ``"gradient"`` weighs errors by the output metric of the statistics, ``"identity"`` by nothing,
            ``"auto"`` takes the former where all sites have it.
        options: Options of the compensation.

    Raises:
        ConfigurationError: An argument cannot be meant.
        StatisticsError: Statistics and weights do not fit, or lack what the compensation needs.
    """
    check_fit(statistics, weights)
    if metric not in ("auto", "gradient", "identity"):
        raise ConfigurationError(f"metric must be auto, gradient or identity, not {metric!r}")
    weighted = metric != "identity" and all(site.metric is not None for site in statistics)
    if metric == "gradient" and not weighted:
        raise ConfigurationError("metric='gradient' needs statistics with an output metric; use metric='auto'")
    sites = []
    for site, site_weights, site_kept in zip(statistics, weights, kept, strict=True):
        change, shift = output_change(compensation, site_weights, site_kept, site, **(options or {}))
        sites.append(_site_damage(site, site_weights, change, shift, site.metric if weighted else None))
    return Damage(tuple(sites), "gradient" if weighted else "identity")


def output_change(
    compensation: str, weights: SiteWeights, kept: Tensor, site: SiteStatisticsLike, **options: Any
) -> tuple[Tensor, Tensor]:
    """Return ``V`` ``(out, hidden)`` and ``v`` ``(out,)`` by which pruning and compensation change the output.

    ``y' - y = V h + v`` for the hidden neurons ``h`` of the dense site.
    """
    fc2_weight, fc2_bias = compensate(compensation, weights, kept, site, **options)
    change = weights.fc2_weight.clone()
    change[:, kept] -= fc2_weight
    before = torch.zeros(change.shape[0], dtype=change.dtype) if weights.fc2_bias is None else weights.fc2_bias
    return -change, (before if fc2_bias is None else fc2_bias) - before


def _site_damage(
    site: SiteStatisticsLike, weights: SiteWeights, change: Tensor, shift: Tensor, metric: Tensor | None
) -> SiteDamage:
    error, exact = expected_error(change, shift, site.moments, metric)
    energy, _ = expected_error(weights.fc2_weight, -weights.fc2_weight @ site.moments.mean, site.moments, metric)
    return SiteDamage(site.name, error, energy, exact)

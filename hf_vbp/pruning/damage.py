"""Predicted output error of every site. Pure tensors in float64.

With any compensation, pruning changes the output of a site by an affine function of its hidden neurons, ``V h + v``.
Its mean square over the calibration tokens is therefore known exactly from their mean ``m`` and covariance ``C``::

    E|V h + v|_G^2 = trace(G V C V^T) + |V m + v|_G^2

For ``none`` and ``mean`` these are the formulas of the paper's argument; for ``linear`` it is the trace of the Schur
complement ``C_PP - C_PK C_KK^-1 C_KP``, plus the cost of the regularization. Activations are those of the dense
model: the prediction ignores that errors of earlier sites change the inputs of later ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_vbp.adapters.site_weights import SiteWeights
from hf_vbp.compensation.base import Compensated, Compensation, compensate
from hf_vbp.compensation.least_squares import expected_error
from hf_vbp.config.registry import check_choice
from hf_vbp.criteria.base import check_fit
from hf_vbp.errors import ConfigurationError
from hf_vbp.statistics.site_moments import check_metrics
from hf_vbp.statistics.site_statistics import SiteStatistics


@dataclass(frozen=True)
class SiteDamage:
    """Expected squared output error of one site, per token.

    Attributes:
        name: The site.
        error: ``E|y' - y|_G^2``.
        energy: ``E|y - E[y]|_G^2`` of the dense output: the error of replacing the site by a constant.
        exact: Whether covariances were available; without them, neurons are treated as uncorrelated.
    """

    name: str
    error: float
    energy: float
    exact: bool

    @property
    def relative(self) -> float:
        """``error / energy``: 0 for an unchanged site, 1 for a site that is replaced by its mean."""
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


METRICS = ("auto", "gradient", "identity")


class DamagePrediction:
    """Accumulates the predicted output error site by site, from the compensation that will be applied."""

    def __init__(self, statistics: Sequence[SiteStatistics], metric: str = "auto") -> None:
        """Start with no site.

        Args:
            statistics: One per site.
            metric: ``"gradient"`` weighs errors by the output metric of the statistics, ``"identity"`` weighs all
                directions equally, ``"auto"`` uses the output metric where all sites have it.

        Raises:
            ConfigurationError: The metric is unknown, or ``"gradient"`` and a site has none.
            StatisticsError: The output metric of a site is zero.
        """
        check_choice("metric", metric, METRICS)
        self._weighted = metric != "identity" and all(site.metric is not None for site in statistics)
        if metric == "gradient" and not self._weighted:
            raise ConfigurationError("metric='gradient' needs statistics with an output metric; use metric='auto'.")
        if self._weighted:
            check_metrics(statistics)
        self._sites: list[SiteDamage] = []

    def add(
        self,
        site: SiteStatistics,
        weights: SiteWeights,
        kept: Tensor,
        compensated: Compensated,
        mixes_neurons: bool = False,
    ) -> None:
        """Add the next site.

        Args:
            site: Its statistics. With covariances the prediction is exact.
            weights: Its dense weights.
            kept: ``(kept,)`` int64.
            compensated: The new weights of ``fc2``.
            mixes_neurons: Whether removing neurons changes the others, so that the prediction is not exact.
        """
        change, shift = output_change(weights, kept, compensated)
        metric = site.metric if self._weighted else None
        error, exact = expected_error(change, shift, site.moments, metric)
        energy, _ = expected_error(weights.fc2_weight, -(weights.fc2_weight @ site.moments.mean), site.moments, metric)
        self._sites.append(SiteDamage(site.name, error, energy, exact and not mixes_neurons))

    def result(self) -> Damage:
        """Return the predicted output error of the sites that were added."""
        return Damage(tuple(self._sites), "gradient" if self._weighted else "identity")


def predict_damage(
    compensation: Compensation | str,
    statistics: Sequence[SiteStatistics],
    weights: Sequence[SiteWeights],
    kept: Sequence[Tensor],
    *,
    metric: str = "auto",
    options: Mapping[str, Any] | None = None,
) -> Damage:
    """Predict the output error of every site on the calibration data.

    Args:
        compensation: A compensation, or the name of one.
        statistics: One per site. With covariances the result is exact.
        weights: The dense weights, one per site.
        kept: ``(kept,)`` int64 for each site.
        metric: As for :class:`DamagePrediction`.
        options: Options of a compensation that is given by name.

    Raises:
        ConfigurationError: A name, an option or the metric is unknown.
        StatisticsError: Statistics and weights do not match, or the statistics lack something.
    """
    check_fit(statistics, weights)
    prediction = DamagePrediction(statistics, metric)
    for site, site_weights, site_kept in zip(statistics, weights, kept, strict=True):
        compensated = compensate(compensation, site_weights, site_kept, site, **(options or {}))
        prediction.add(site, site_weights, site_kept, compensated)
    return prediction.result()


def output_change(weights: SiteWeights, kept: Tensor, compensated: Compensated) -> tuple[Tensor, Tensor]:
    """Return ``V`` ``(out, hidden)`` and ``v`` ``(out,)`` by which pruning and compensation change the output.

    ``y' - y = V h + v`` for the hidden neurons ``h`` of the dense site.
    """
    change = -weights.fc2_weight
    change[:, kept] += compensated.weight
    before = torch.zeros(change.shape[0], dtype=change.dtype) if weights.fc2_bias is None else weights.fc2_bias
    return change, (before if compensated.bias is None else compensated.bias) - before

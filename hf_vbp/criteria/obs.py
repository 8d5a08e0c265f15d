"""Optimal Brain Surgeon: the curves of greedy elimination of all sites, merged by marginal cost."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from hf_vbp._progress import Progress, shown
from hf_vbp.adapters.site_weights import SiteWeights
from hf_vbp.config.registry import check_choice
from hf_vbp.config.requirements import Requirements
from hf_vbp.criteria.base import Criterion, Ranking, register_criterion
from hf_vbp.criteria.elimination import eliminate, output_gram
from hf_vbp.errors import ConfigurationError, StatisticsError
from hf_vbp.statistics.elimination_curve import EliminationCurve
from hf_vbp.statistics.site_moments import (
    TOKEN_WEIGHTS,
    check_metrics,
    covariance_of,
    damped,
    least_squares_moments,
    through_origin,
)
from hf_vbp.statistics.site_statistics import SiteStatistics
from hf_vbp.statistics.stored_sites import with_values

DEFAULT_RIDGE = 1e-3
"""Ridge of the covariance, as a share of the variance of each neuron."""

METRICS = ("auto", "gradient", "identity")


@register_criterion
@dataclass(frozen=True)
class Obs(Criterion):
    """Optimal Brain Surgeon: greedy elimination with refit, merged over all sites.

    The score of a neuron is the marginal cost of its elimination, made monotone along the order of elimination, so
    that plans for growing ratios are nested and one run serves every ratio. It minimizes the error that remains after
    the compensation ``linear``.

    Attributes:
        metric: ``"gradient"`` weighs output errors by ``G = E[g g^T]`` of the statistics, across sites too;
            ``"identity"`` weighs all directions equally; ``"auto"`` uses ``G`` where all sites have it.
        ridge: Added to the variances, as a share of each, whatever the scales of the neurons.
        token_weights: ``"gradient"`` uses the covariance in which tokens are weighted by the norm of their gradient,
            ``"none"`` the plain one; ``"auto"`` uses the weighted one where all sites have it and the metric is
            ``"gradient"``.

    Raises:
        ConfigurationError: An option has an invalid value.
    """

    name = "obs"
    metric: str = "auto"
    ridge: float = DEFAULT_RIDGE
    token_weights: str = "auto"

    def __post_init__(self) -> None:
        check_choice("metric", self.metric, METRICS)
        check_choice("token_weights", self.token_weights, TOKEN_WEIGHTS)
        if (
            isinstance(self.ridge, bool)
            or not isinstance(self.ridge, int | float)
            or not 0 <= self.ridge <= sys.float_info.max
        ):
            raise ConfigurationError(f"ridge must be a number of 0 or more, got {shown(self.ridge)}.")

    @property
    def requires(self) -> Requirements:
        """Covariances, and gradients unless the options exclude them."""
        gradients = self.metric != "identity"
        return Requirements(
            covariances=True, output_metric=gradients, token_weights=gradients and self.token_weights != "none"
        )

    def rank(self, statistics: Sequence[SiteStatistics], weights: Sequence[SiteWeights]) -> list[Ranking]:
        """Return the marginal costs as scores, from the curves in the statistics if these have the same options.

        Raises:
            StatisticsError: The statistics lack something that the options need.
        """
        options = self.resolved(statistics).options
        held = [site.curve for site in statistics if site.curve is not None and dict(site.curve.options) == options]
        if len(held) != len(statistics):
            held = elimination_curves(statistics, weights, self)
        return [_ranking(curve) for curve in held]

    def precompute(
        self,
        statistics: Sequence[SiteStatistics],
        weights: Sequence[SiteWeights],
        *,
        device: str | torch.device | None = None,
        progress: Progress | None = None,
    ) -> Sequence[SiteStatistics]:
        """Return the statistics with the elimination curves of all sites."""
        curves = elimination_curves(statistics, weights, self, device=device, progress=progress)
        return with_values(statistics, "curve", curves)

    def resolved(self, statistics: Sequence[SiteStatistics]) -> "Obs":
        """Return the criterion with every ``"auto"`` replaced by the value that it has for these statistics.

        Raises:
            StatisticsError: The statistics lack something that the options need.
        """
        lacking = [site.name for site in statistics if site.metric is None]
        if self.metric == "gradient" and lacking:
            raise StatisticsError(
                f"the statistics of site {lacking[0]!r} hold no output metric; gather them for criterion 'obs', or "
                "use metric='identity'"
            )
        # One metric and one kind of moments for all: costs of different sites must have the same unit.
        metric = "identity" if self.metric == "identity" or lacking else "gradient"
        if metric == "gradient":
            check_metrics(statistics)
        token_weights = self.token_weights
        if token_weights == "auto":
            weighted = metric == "gradient" and all(site.weighted is not None for site in statistics)
            token_weights = "gradient" if weighted else "none"
        for site in statistics:
            least_squares_moments(site, token_weights)
        return replace(self, metric=metric, token_weights=token_weights)


def elimination_curves(
    statistics: Sequence[SiteStatistics],
    weights: Sequence[SiteWeights],
    criterion: Obs | None = None,
    *,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
) -> list[EliminationCurve]:
    """Run the greedy elimination of every site.

    The result does not depend on the budget; :func:`hf_vbp.precompute_scores` saves it with the statistics.

    Args:
        statistics: With covariances and, for the gradient metric, with the output metric.
        weights: The dense weights, one per site.
        criterion: The options; by default those of ``Obs()``.
        device: Device of the computation; by default that of the statistics.
        progress: Receives the number of finished sites and of all sites.

    Raises:
        StatisticsError: The statistics lack something that is needed, or a covariance is singular.
    """
    chosen = (criterion or Obs()).resolved(statistics)
    curves = []
    for site, site_weights in zip(statistics, weights, strict=True):
        about = through_origin(site) if site_weights.fc2_bias is None else site
        covariance = covariance_of(least_squares_moments(about, chosen.token_weights), site.name)
        # Constant neurons remain constant, so that they cost nothing.
        constant = covariance.diagonal() == 0
        covariance = damped(covariance, chosen.ridge)
        covariance.diagonal()[constant] = 0.0
        metric = None if chosen.metric == "identity" else site.metric
        try:
            curve = eliminate(covariance, output_gram(site_weights.fc2_weight, metric), device=device)
        except StatisticsError as error:
            raise StatisticsError(f"site {site.name!r}: {error}") from error
        curves.append(replace(curve, options=chosen.options))
        if progress is not None:
            progress(len(curves), len(statistics))
    return curves


def _ranking(curve: EliminationCurve) -> Ranking:
    scores, ties = torch.empty_like(curve.costs), torch.empty_like(curve.order)
    scores[curve.order] = curve.costs.cummax(0).values if len(curve.costs) else curve.costs
    ties[curve.order] = torch.arange(len(curve.order))
    return Ranking(scores, ties)

"""Optimal Brain Surgeon: the curves of greedy elimination of all sites, merged by marginal cost."""

from collections.abc import Sequence
from typing import Any

import torch

from hf_vbp.criteria.base import (
    Ranking,
    SiteStatisticsLike,
    SiteWeights,
    covariance_of,
    least_squares_moments,
    register_criterion,
)
from hf_vbp.criteria.elimination import Progress, eliminate, output_gram
from hf_vbp.errors import ConfigurationError, StatisticsError
from hf_vbp.statistics.elimination_curve import EliminationCurve

DEFAULT_RIDGE = 1e-3
"""Ridge of the covariance, as a share of the mean variance of the neurons of the site."""

METRICS = ("auto", "gradient", "identity")


@register_criterion("obs")
def obs(
    statistics: Sequence[SiteStatisticsLike],
    weights: Sequence[SiteWeights],
    *,
    metric: str = "auto",
    ridge: float = DEFAULT_RIDGE,
    token_weights: str = "auto",
    curves: Sequence[EliminationCurve] | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> list[Ranking]:
    """Greedy elimination with refit, merged over all sites (Optimal Brain Surgeon); needs covariances.

    The score of a neuron is the marginal cost at which its site gives it up, made monotone along the order of
    elimination, so that plans for growing ratios are nested and every ratio is read from one run. The loss that
    it minimises is the one left after ``compensation="linear"``.

    Args:
        statistics: With covariances and, for the gradient metric, with the output metric.
        weights: The dense weights.
        metric: ``"gradient"`` weighs output errors by ``G = E[g g^T]`` of the statistics, across sites too;
            ``"identity"`` by nothing; ``"auto"`` takes the former where all sites have it.
        ridge: Added to the diagonal of the covariance, as a share of its mean.
        token_weights: ``"gradient"`` takes the covariance in which tokens count by the norm of their gradient,
            ``"none"`` the plain one; ``"auto"`` the former where all sites have it and the metric is ``"gradient"``.
        curves: Curves of an earlier call of :func:`elimination_curves`, to be merged as they are.
        device: Where to compute; by default where the statistics are.
        progress: Called with the number of sites done and of all.

    Raises:
        ConfigurationError: An option cannot be meant.
        StatisticsError: The statistics lack what is needed.
    """
    if curves is None:
        options: dict[str, Any] = {"metric": metric, "ridge": ridge, "token_weights": token_weights}
        curves = elimination_curves(statistics, weights, **options, device=device, progress=progress)
    sizes = [len(curve.order) for curve in curves]
    if sizes != [site_weights.hidden for site_weights in weights]:
        raise ConfigurationError(f"the curves are of sites of {sizes} neurons, and this model has others")
    return [_ranking(curve) for curve in curves]


def elimination_curves(
    statistics: Sequence[SiteStatisticsLike],
    weights: Sequence[SiteWeights],
    *,
    metric: str = "auto",
    ridge: float = DEFAULT_RIDGE,
    token_weights: str = "auto",
    device: str | None = None,
    progress: Progress | None = None,
) -> list[EliminationCurve]:
    """Run the greedy elimination of every site; the arguments are those of :func:`obs`.

    Independent of any budget, so it is worth saving: :func:`hf_vbp.with_curves`.
    """
    chosen = curve_options(statistics, metric=metric, ridge=ridge, token_weights=token_weights)
    metrics = [None if chosen["metric"] == "identity" else site.metric for site in statistics]
    curves = []
    for site, site_weights, site_metric in zip(statistics, weights, metrics, strict=True):
        covariance = covariance_of(least_squares_moments(site, chosen["token_weights"]), site.name)
        if ridge and len(covariance):
            covariance.diagonal().add_(ridge * covariance.diagonal().mean())
        try:
            curve = eliminate(covariance, output_gram(site_weights.fc2_weight, site_metric), device=device)
        except StatisticsError as error:
            raise StatisticsError(f"site {site.name!r}: {error}") from error
        curves.append(curve)
        if progress is not None:
            progress(len(curves), len(statistics))
    return curves


def curve_options(
    statistics: Sequence[SiteStatisticsLike],
    *,
    metric: str = "auto",
    ridge: float = DEFAULT_RIDGE,
    token_weights: str = "auto",
) -> dict[str, Any]:
    """Return what the options of :func:`obs` come to on these statistics, ``"auto"`` replaced by what it takes.

    Raises:
        ConfigurationError: An option cannot be meant.
        StatisticsError: What was asked for was not gathered.
    """
    if ridge < 0:
        raise ConfigurationError(f"ridge must be 0 or more, not {ridge}")
    if metric not in METRICS:
        raise ConfigurationError(f"metric must be one of {', '.join(METRICS)}, not {metric!r}")
    lacking = [site.name for site in statistics if site.metric is None]
    if metric == "gradient" and lacking:
        raise StatisticsError(
            f"the statistics of site {lacking[0]!r} hold no output metric; gather them with output_metric=True, "
            "or use metric='identity'"
        )
    # One metric and one kind of moments for all: costs of different sites must be of one unit.
    metric = "identity" if metric == "identity" or lacking else "gradient"
    if token_weights == "auto":
        weighted = metric == "gradient" and all(site.weighted is not None for site in statistics)
        token_weights = "gradient" if weighted else "none"
    for site in statistics:
        least_squares_moments(site, token_weights)
    return {"metric": metric, "ridge": ridge, "token_weights": token_weights}


def _ranking(curve: EliminationCurve) -> Ranking:
    scores, ties = torch.empty_like(curve.costs), torch.empty_like(curve.order)
    scores[curve.order] = curve.costs.cummax(0).values if len(curve.costs) else curve.costs
    ties[curve.order] = torch.arange(len(curve.order))
    return Ranking(scores, ties)

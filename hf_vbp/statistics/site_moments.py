"""Moments for least squares: covariances, weighted tokens, halves of the images."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from hf_vbp.errors import ConfigurationError, StatisticsError
from hf_vbp.statistics.moments import Moments, with_diagonal
from hf_vbp.statistics.site_statistics import SiteStatistics


def covariance_of(moments: Moments, name: str) -> Tensor:
    """Return the sample covariance ``(hidden, hidden)`` float64.

    Raises:
        StatisticsError: Only variances were gathered, or fewer than two tokens.
    """
    if moments.comoment is None:
        raise StatisticsError(
            f"The statistics of site {name!r} hold variances only, but covariances are needed. Gather them for a "
            "criterion or a compensation that requires covariances."
        )
    if moments.count < 2:
        raise StatisticsError(f"Site {name!r} saw {moments.count} tokens, but a covariance needs at least 2.")
    return moments.comoment / (moments.count - 1)


def negligible(variances: Tensor) -> float:
    """Return 1e-6 of the median of the variances above 0: neurons of less are constant, or vary by rounding only.

    Args:
        variances: ``(hidden,)``, of any scales.
    """
    positive = variances[variances > 0]
    return 1e-6 * float(positive.median()) if len(positive) else 0.0


def damped(covariance: Tensor, strength: float) -> Tensor:
    """Return a covariance with larger variances, by a share of each.

    A share of the mean variance would be larger than most variances where a few are extreme. The share of a variance
    is that of at least a :func:`negligible` one, so that constant neurons can be inverted.

    Args:
        covariance: ``(hidden, hidden)`` float64; not changed.
        strength: 0 or more.
    """
    made = covariance.clone()
    variances = covariance.diagonal()
    made.diagonal().add_(strength * (variances + negligible(variances)))
    return made


TOKEN_WEIGHTS = ("auto", "gradient", "none")


def least_squares_moments(site: SiteStatistics, token_weights: str) -> Moments:
    """Return the moments that least squares is fitted to.

    Args:
        site: The statistics of the site.
        token_weights: ``"gradient"`` for tokens weighted by the norm of their gradient; ``"none"`` for uniform
            weights; ``"auto"`` for the former where it was gathered.

    Raises:
        ConfigurationError: Unknown value of ``token_weights``.
        StatisticsError: ``"gradient"`` was requested but not gathered.
    """
    if token_weights not in TOKEN_WEIGHTS:
        raise ConfigurationError(f"token_weights must be one of {', '.join(TOKEN_WEIGHTS)}, got {token_weights!r}.")
    if site.weighted is not None and token_weights != "none":
        return site.weighted
    if token_weights == "gradient":
        raise StatisticsError(
            f"The statistics of site {site.name!r} hold no weighted moments. Gather them for this configuration, or "
            "use token_weights='none'."
        )
    return site.moments


def full_halves(site: SiteStatistics) -> tuple[Moments, Moments] | None:
    """Return both halves of the images with their co-moments, or None where these were not gathered.

    Statistics hold the co-moments of the first half only. Those of the second are the total minus those of the
    first, by the pairwise formula, with rounding errors of the size of ``2**-52`` times the total.
    """
    if site.halves is None:
        return None
    whole, (first, second) = site.moments, site.halves
    if whole.comoment is None or first.comoment is None or min(first.count, second.count) < 2:
        return None
    if second.comoment is None:
        between = (second.mean - first.mean) * (first.count * second.count / whole.count) ** 0.5
        rest = (whole.comoment - first.comoment).addr_(between, between, alpha=-1)
        m2 = second.variance * (second.count - 1)
        second = Moments(second.count, second.mean, m2, with_diagonal(rest, m2))
    return first, second


def through_origin(site: SiteStatistics) -> SiteStatistics:
    """Return the statistics of a site about zero in place of the means.

    Where ``fc2`` has no bias, no mean can be folded in: the best compensation is least squares through the origin,
    with ``E[h h^T] = C + mu mu^T`` in place of the covariance ``C``.
    """
    halves = full_halves(site) or site.halves
    return replace(
        site,
        moments=site.moments.about_origin(),
        halves=None if halves is None else (halves[0].about_origin(), halves[1].about_origin()),
        weighted=None if site.weighted is None else site.weighted.about_origin(),
    )


def check_metrics(statistics: Sequence[SiteStatistics]) -> None:
    """Refuse output metrics that are zero at every site, by which any neuron could be removed at no cost.

    At some sites the metric may be zero: the task does not use their outputs, so their neurons go first.

    Args:
        statistics: One per site, with or without a metric.

    Raises:
        StatisticsError: All are zero.
    """
    zero = [site.name for site in statistics if site.metric is not None and not bool(site.metric.any())]
    if zero and len(zero) == len(statistics):
        named = ", ".join(zero[:3]) + (", ..." if len(zero) > 3 else "")
        raise StatisticsError(
            f"The output metric is zero at {named}: the predicted labels do not depend on these sites, whose neurons "
            "would be removed at random. Gather statistics without the metric (for criterion 'obs' the option "
            "metric='identity')."
        )

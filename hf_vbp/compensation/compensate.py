"""What is done to the weights of ``fc2`` that stay, so that the output of the site moves least.

Pure tensors in float64. Rows of ``fc1`` are only ever deleted, so they do not appear here.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hf_vbp.compensation.least_squares import complement, fold
from hf_vbp.compensation.regularization import Regularisation, choose_regularisation, sampling_noise
from hf_vbp.criteria.base import SiteStatisticsLike, SiteWeights, covariance_of, full_halves, least_squares_moments
from hf_vbp.errors import ConfigurationError

DEFAULT_RIDGE = 1e-3
"""Ridge of the linear compensation, as a share of the mean variance of the neurons of the site."""

Compensated = tuple[Tensor, Tensor | None]


class CompensationWarning(UserWarning):
    """A site could not be compensated as asked; the message names it and says what was done instead."""


def none(weights: SiteWeights, kept: Tensor, site: SiteStatisticsLike) -> Compensated:
    """Delete the columns and change nothing else."""
    return weights.fc2_weight[:, kept], weights.fc2_bias


def mean(weights: SiteWeights, kept: Tensor, site: SiteStatisticsLike) -> Compensated:
    """Put the mean output of the pruned neurons into the bias (the paper's mean shift, section 3).

    ``fc2_bias' = fc2_bias + fc2_weight[:, P] mean_P``.
    """
    pruned = complement(kept, weights.hidden)
    shift = weights.fc2_weight[:, pruned] @ site.moments.mean[pruned]
    return weights.fc2_weight[:, kept], shifted(weights.fc2_bias, shift)


def linear(
    weights: SiteWeights,
    kept: Tensor,
    site: SiteStatisticsLike,
    *,
    ridge: float = DEFAULT_RIDGE,
    regularisation: str = "ridge",
    token_weights: str = "auto",
    covariance: Tensor | None = None,
) -> Compensated:
    """Predict the pruned neurons from those that stay, by least squares, and fold the prediction in.

    With mean ``m`` and covariance ``C`` of the hidden neurons, ``B = C_PK (C_KK + lambda I)^-1``,
    ``fc2_weight' = W_K + W_P B`` and ``fc2_bias' = b + W_P (m_P - B m_K)``: the best affine repair for this
    kept set, at no cost at inference time. It is the mean shift when the neurons are uncorrelated.

    Args:
        weights: The dense weights.
        kept: ``(kept,)`` int64.
        site: Statistics with covariances, or only the mean when ``covariance`` is given.
        ridge: ``lambda`` as a share of the mean of the diagonal of ``C``; 0 for none. The strength, when
            ``regularisation`` is another kind.
        regularisation: A kind of ``Regularisation``, or ``"held-out"`` to choose kind and strength for this
            site by ``choose_regularisation``.
        token_weights: ``"gradient"`` fits to tokens that count by the norm of their gradient, ``"none"`` to all
            alike, ``"auto"`` to the former where it was gathered.
        covariance: ``(hidden, hidden)`` float64 to use as it is, in place of the regularised sample covariance.

    Raises:
        ConfigurationError: An option cannot be meant.
        StatisticsError: The statistics lack the covariances.
    """
    moments = least_squares_moments(site, token_weights)
    if covariance is None:
        cleaner = _cleaner(regularisation, ridge, weights, kept, site)
        covariance = cleaner.apply(covariance_of(moments, site.name), moments.count, noise=_noise(cleaner, site))
    pruned = complement(kept, weights.hidden)
    removed, hidden_mean = weights.fc2_weight[:, pruned], moments.mean
    folded = fold(covariance, kept, pruned, removed)
    if folded is None:
        warnings.warn(
            f"the covariance of the kept neurons of site {site.name!r} is singular; this site gets the mean "
            "compensation instead. More calibration images or a larger ridge avoid it",
            CompensationWarning,
            stacklevel=2,
        )
        folded = torch.zeros(len(removed), len(kept), dtype=torch.float64)
    shift = removed @ hidden_mean[pruned] - folded @ hidden_mean[kept]
    return weights.fc2_weight[:, kept] + folded, shifted(weights.fc2_bias, shift)


def _cleaner(
    regularisation: str, strength: float, weights: SiteWeights, kept: Tensor, site: SiteStatisticsLike
) -> Regularisation:
    if regularisation == "held-out":
        return choose_regularisation(site, weights, kept, metric=site.metric)[0]
    return Regularisation(regularisation, strength)


def _noise(cleaner: Regularisation, site: SiteStatisticsLike) -> float | None:
    halves = full_halves(site) if cleaner.kind == "ledoit-wolf" else None
    return None if halves is None else sampling_noise(*(covariance_of(half, site.name) for half in halves))


COMPENSATIONS: dict[str, Callable[..., Compensated]] = {"none": none, "mean": mean, "linear": linear}
"""Name to function."""


def compensate(kind: str, weights: SiteWeights, kept: Tensor, site: SiteStatisticsLike, **options: Any) -> Compensated:
    """Return the weights of ``fc2`` of a site of which only the neurons ``kept`` stay.

    Args:
        kind: ``none``, ``mean`` or ``linear``.
        weights: The dense weights of the site.
        kept: ``(kept,)`` int64, indices of the neurons that stay, in the order of the result's columns.
        site: The statistics of the site.
        **options: What the compensation takes by keyword.

    Returns:
        ``fc2_weight`` ``(out, kept)`` and ``fc2_bias`` ``(out,)``, float64. A site without bias gets one from
        ``mean`` and ``linear``, and None from ``none``.

    Raises:
        ConfigurationError: No such compensation, or indices that are not distinct neurons of the site.
        StatisticsError: ``linear`` was asked for and the statistics hold no covariances.
    """
    if kind not in COMPENSATIONS:
        raise ConfigurationError(
            f"there is no compensation {kind!r}; choose one of: {', '.join(sorted(COMPENSATIONS))}"
        )
    kept = kept.to(device="cpu", dtype=torch.int64)
    if kept.numel() and (kept.min() < 0 or kept.max() >= weights.hidden):
        raise ConfigurationError(
            f"site {site.name!r} has the neurons 0 to {weights.hidden - 1}, "
            f"and {kept.min().item()} to {kept.max().item()} were to be kept"
        )
    if torch.bincount(kept, minlength=1).max() > 1:
        raise ConfigurationError(f"the neurons to keep of site {site.name!r} are not distinct")
    return COMPENSATIONS[kind](weights, kept, site, **options)


def shifted(bias: Tensor | None, shift: Tensor) -> Tensor:
    """Return ``bias + shift``, where no bias counts as zero."""
    return shift if bias is None else bias + shift

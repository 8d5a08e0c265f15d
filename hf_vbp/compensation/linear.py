"""Least squares: predict the removed neurons from the kept ones."""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_vbp.adapters.site_weights import SiteWeights
from hf_vbp.compensation.base import (
    Compensated,
    Compensation,
    CompensationWarning,
    register_compensation,
    shifted,
)
from hf_vbp.compensation.least_squares import complement, fold
from hf_vbp.compensation.regularization import (
    KINDS,
    NEED_HALVES,
    Regularization,
    choose_regularization,
    sampling_noise,
)
from hf_vbp.config.registry import check_choice
from hf_vbp.config.requirements import Requirements
from hf_vbp.errors import ConfigurationError
from hf_vbp.statistics.moments import Moments
from hf_vbp.statistics.site_moments import TOKEN_WEIGHTS, covariance_of, full_halves, least_squares_moments
from hf_vbp.statistics.site_statistics import SiteStatistics

DEFAULT_RIDGE = 1e-3
"""Ridge of the linear compensation, as a share of the mean variance of the neurons of the site."""

HELD_OUT = "held-out"


@register_compensation
@dataclass(frozen=True)
class Linear(Compensation):
    """Predict the removed neurons from the kept ones by least squares, and add the prediction to the kept weights.

    With mean ``m`` and covariance ``C`` of the hidden neurons, ``B = C_PK (C_KK + lambda I)^-1``,
    ``fc2_weight' = W_K + W_P B`` and ``fc2_bias' = b + W_P (m_P - B m_K)``: the best affine compensation for this
    kept set, at no cost at inference time. It is the mean shift when the neurons are uncorrelated.

    Attributes:
        ridge: ``lambda`` as a share of the mean of the diagonal of ``C``; 0 for none. The strength, when
            ``regularization`` is another kind.
        regularization: A kind of :class:`~hf_vbp.compensation.regularization.Regularization`, or ``"held-out"`` to
            choose kind and strength for each site by the error on the half of the images that was not used for the
            fit.
        token_weights: ``"gradient"`` fits to tokens weighted by the norm of their gradient, ``"none"`` weighs all
            tokens equally, ``"auto"`` uses the weighted tokens where they were gathered.

    Raises:
        ConfigurationError: An option has an invalid value.
    """

    name = "linear"
    ridge: float = DEFAULT_RIDGE
    regularization: str = "ridge"
    token_weights: str = "auto"

    def __post_init__(self) -> None:
        check_choice("regularization", self.regularization, (*KINDS, HELD_OUT))
        check_choice("token_weights", self.token_weights, TOKEN_WEIGHTS)
        if isinstance(self.ridge, bool) or not isinstance(self.ridge, int | float):
            raise ConfigurationError(f"ridge must be a number of 0 or more, got {self.ridge!r}.")
        _ = self._regularization

    @property
    def requires(self) -> Requirements:
        """Covariances, of both halves where the regularization is computed from them, and a bias."""
        return Requirements(covariances=True, halves=self.regularization in NEED_HALVES, bias=True)

    def fit(self, weights: SiteWeights, kept: Tensor, site: SiteStatistics) -> Compensated:
        """Return the refitted columns and bias.

        Raises:
            StatisticsError: The statistics lack the covariances.
        """
        moments = least_squares_moments(site, self.token_weights)
        regularization = self._regularization
        if regularization is None:
            regularization = choose_regularization(site, weights, kept, metric=site.metric)[0]
        noise = _noise(regularization, site)
        covariance = regularization.apply(covariance_of(moments, site.name), moments.count, noise=noise)
        return fit_linear(weights, kept, moments, covariance, site.name)

    @property
    def _regularization(self) -> Regularization | None:
        return None if self.regularization == HELD_OUT else Regularization(self.regularization, self.ridge)


def fit_linear(
    weights: SiteWeights, kept: Tensor, moments: Moments, covariance: Tensor, name: str = "site"
) -> Compensated:
    """Return the least-squares compensation for a covariance that is already regularized.

    Args:
        weights: The dense weights of the site.
        kept: ``(kept,)`` int64.
        moments: Of the hidden neurons; their mean is used.
        covariance: ``(hidden, hidden)`` float64, used unchanged.
        name: Name of the site, for the warning.

    Warns:
        CompensationWarning: The covariance of the kept neurons is singular; the mean shift is returned.
    """
    pruned = complement(kept, weights.hidden)
    removed, mean = weights.fc2_weight[:, pruned], moments.mean
    folded = fold(covariance, kept, pruned, removed)
    if folded is None:
        warnings.warn(
            f"the covariance of the kept neurons of site {name!r} is singular, so this site gets the mean "
            "compensation. Use more calibration images or a larger ridge",
            CompensationWarning,
            stacklevel=2,
        )
        folded = torch.zeros(len(removed), len(kept), dtype=torch.float64)
    shift = removed @ mean[pruned] - folded @ mean[kept]
    return Compensated(weights.fc2_weight[:, kept] + folded, shifted(weights.fc2_bias, shift))


def _noise(regularization: Regularization, site: SiteStatistics) -> float | None:
    halves = full_halves(site) if regularization.kind == "ledoit-wolf" else None
    return None if halves is None else sampling_noise(*(covariance_of(half, site.name) for half in halves))

"""Least squares: predict the removed neurons from the kept ones."""

import sys
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_vbp._progress import shown
from hf_vbp.adapters.site_weights import SiteWeights
from hf_vbp.compensation.base import (
    Compensated,
    Compensation,
    CompensationWarning,
    register_compensation,
    shifted,
)
from hf_vbp.compensation.least_squares import cholesky, complement, fold
from hf_vbp.compensation.regularization import (
    KINDS,
    NEED_HALVES,
    Regularization,
    automatic_regularization,
    choose_regularization,
    least_strength,
    sampling_noise,
)
from hf_vbp.config.registry import check_choice
from hf_vbp.config.requirements import Requirements
from hf_vbp.errors import ConfigurationError
from hf_vbp.statistics.joint import JointMoments
from hf_vbp.statistics.moments import Moments
from hf_vbp.statistics.site_moments import (
    TOKEN_WEIGHTS,
    covariance_of,
    damped,
    full_halves,
    least_squares_moments,
    through_origin,
)
from hf_vbp.statistics.site_statistics import SiteStatistics

DEFAULT_RIDGE = 1e-3
"""Strength of the regularization of the linear compensation."""
REFIT_PER_TOKEN = 0.05
"""The smallest ridge of the refit, times the kept neurons over the tokens. Less than that of the fit: the error of the
first fit is not only the noise of few tokens."""

AUTO = "auto"
HELD_OUT = "held-out"


@register_compensation
@dataclass(frozen=True)
class Linear(Compensation):
    """Predict the removed neurons from the kept ones by least squares, and add the prediction to the kept weights.

    With mean ``m`` and covariance ``C`` of the hidden neurons, regularized, ``B = C_PK C_KK^-1``,
    ``fc2_weight' = W_K + W_P B`` and ``fc2_bias' = b + W_P (m_P - B m_K)``: the best affine compensation for this
    kept set, at no cost at inference time. It is the mean shift when the neurons are uncorrelated. Where ``fc2`` has
    no bias it is least squares through the origin: ``E[h h^T]`` in place of ``C``, no shift.

    Attributes:
        ridge: The strength of the regularization; 0 for none.
        regularization: ``"auto"`` shrinks all correlations by the share ``ridge``, at most 1, and by more where there
            are few tokens for the neurons, or where the statistics hold covariances of two halves of the images and
            the error on the half that was not used for the fit is lower by a tenth
            (:func:`~hf_vbp.compensation.regularization.automatic_regularization`). ``"held-out"`` chooses kind and
            strength by this error alone. Otherwise a kind of
            :class:`~hf_vbp.compensation.regularization.Regularization`.
        token_weights: ``"gradient"`` fits to tokens weighted by the norm of their gradient, ``"none"`` weighs all
            tokens equally, ``"auto"`` uses the weighted tokens where they were gathered.

    Raises:
        ConfigurationError: An option has an invalid value.
    """

    name = "linear"
    ridge: float = DEFAULT_RIDGE
    regularization: str = AUTO
    token_weights: str = "auto"

    def __post_init__(self) -> None:
        check_choice("regularization", self.regularization, (AUTO, *KINDS, HELD_OUT))
        check_choice("token_weights", self.token_weights, TOKEN_WEIGHTS)
        if (
            isinstance(self.ridge, bool)
            or not isinstance(self.ridge, int | float)
            or abs(self.ridge) > sys.float_info.max
        ):
            raise ConfigurationError(f"ridge must be a number of 0 or more, got {shown(self.ridge)}.")
        if self.regularization == AUTO and not 0 <= self.ridge <= 1:
            bound = "0 or more" if self.ridge < 0 else "at most 1"
            raise ConfigurationError(
                f"the strength of regularization 'auto' is a share: 'ridge' must be {bound}, got {self.ridge}"
            )
        if self.regularization not in (AUTO, HELD_OUT):
            _ = Regularization(self.regularization, self.ridge)

    @property
    def requires(self) -> Requirements:
        """Covariances, of both halves where the regularization is computed from them."""
        return Requirements(covariances=True, halves=self.regularization in NEED_HALVES)

    def fit(self, weights: SiteWeights, kept: Tensor, site: SiteStatistics) -> Compensated:
        """Return the refitted columns and bias.

        Raises:
            StatisticsError: The statistics lack the covariances.
        """
        if weights.fc2_bias is None:
            site = through_origin(site)
        moments = least_squares_moments(site, self.token_weights)
        regularization = self._chosen(weights, kept, site)
        noise = _noise(regularization, site)
        covariance = regularization.apply(covariance_of(moments, site.name), moments.count, noise=noise)
        return fit_linear(weights, kept, moments, covariance, site.name)

    def refit(self, fitted: Compensated, joint: JointMoments) -> Compensated:
        """Return the least-squares fit of the dense outputs, with a ridge towards the first fit.

        With the errors ``e`` of the first fit on ``n`` tokens, and a ridge ``r`` that is a share of each variance and
        of the number of tokens, ``sum |V h + v - e|^2 + r (sum_j n var_j |V_j|^2 + n |v|^2)`` is minimized. Few images
        hardly change the first fit, which they would otherwise replace by noise.
        """
        hidden, ridge = joint.hidden, self._refit_ridge(joint.hidden, joint.count)
        about = joint.about(fitted.bias, 1.0 if fitted.bias is None else ridge / (1 + ridge))
        covariance = about.comoment[:hidden, :hidden]
        factor = cholesky(damped(covariance, ridge))
        if not hidden or factor is None:
            return fitted
        missing = about.comoment[:hidden, hidden:] - covariance @ fitted.weight.T
        weight = fitted.weight + torch.cholesky_solve(missing, factor).T
        if fitted.bias is None:
            return Compensated(weight, None)
        return Compensated(weight, fitted.bias + (about.mean[hidden:] - weight @ about.mean[:hidden]) / (1 + ridge))

    def _refit_ridge(self, hidden: int, tokens: int) -> float:
        if self.regularization == "ridge":
            return self.ridge
        strength = self.ridge if self.regularization == AUTO else DEFAULT_RIDGE
        return least_strength(strength, hidden, tokens, share=REFIT_PER_TOKEN)

    def _chosen(self, weights: SiteWeights, kept: Tensor, site: SiteStatistics) -> Regularization:
        if self.regularization == AUTO:
            return automatic_regularization(site, weights, kept, strength=self.ridge, metric=site.metric)
        if self.regularization == HELD_OUT:
            return choose_regularization(site, weights, kept, metric=site.metric)[0]
        return Regularization(self.regularization, self.ridge)


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
    bias = None if weights.fc2_bias is None else shifted(weights.fc2_bias, shift)
    return Compensated(weights.fc2_weight[:, kept] + folded, bias)


def _noise(regularization: Regularization, site: SiteStatistics) -> float | None:
    halves = full_halves(site) if regularization.kind == "ledoit-wolf" else None
    return None if halves is None else sampling_noise(*(covariance_of(half, site.name) for half in halves))

"""Regularization of covariances before they are inverted. Pure tensors in float64.

A sample covariance from too few images overfits: its small eigenvalues are too small, and the least-squares
compensation that inverts them is good on the calibration images only. The best kind and strength of regularization
differ between sites and numbers of images; :func:`choose_regularization` chooses them by the error on held-out images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_vbp.adapters.site_weights import SiteWeights
from hf_vbp.compensation.least_squares import complement, expected_error, fold
from hf_vbp.errors import ConfigurationError, StatisticsError
from hf_vbp.statistics.moments import Moments
from hf_vbp.statistics.site_moments import covariance_of, full_halves
from hf_vbp.statistics.site_statistics import SiteStatistics

KINDS = ("ridge", "diagonal", "ledoit-wolf", "oas", "edge")
# Values of the option ``regularization`` that are computed from the covariances of two halves of the images.
NEED_HALVES = ("held-out", "ledoit-wolf")


@dataclass(frozen=True)
class Regularization:
    """A kind of regularization and its strength.

    Attributes:
        kind: ``"ridge"`` adds ``strength`` times the mean variance to the diagonal. ``"diagonal"`` shrinks all
            correlations by ``strength`` and keeps the variances. ``"ledoit-wolf"`` shrinks towards a multiple of
            the identity by the estimate of Ledoit and Wolf (2004), times ``strength``; the error of the sample
            covariance is estimated from the difference of its two halves, because the original estimate assumes
            independent samples, and tokens of the same image are not independent. ``"oas"`` shrinks in the same way by
            the Oracle Approximating estimate (Chen et al. 2010); the number of independent samples is taken as
            ``strength`` times the number of tokens. ``"edge"`` drops the eigenvalues below the Marchenko-Pastur edge
            (as Denoised VBP does), with the same number of samples, and adds a ridge of 1e-3.
        strength: 0 or more; its meaning depends on the kind.

    Raises:
        ConfigurationError: Unknown kind, or a strength outside the range of the kind.
    """

    kind: str = "ridge"
    strength: float = 1e-3

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigurationError(f"regularization must be one of {', '.join(KINDS)}, got {self.kind!r}")
        highest = float("inf") if self.kind == "ridge" else 1.0
        includes_zero = self.kind in ("ridge", "diagonal", "ledoit-wolf")
        if not 0 <= self.strength <= highest or (self.strength == 0 and not includes_zero):
            allowed = "0 or more" if includes_zero else "above 0"
            allowed += "" if self.kind == "ridge" else " and at most 1"
            raise ConfigurationError(
                f"the strength of regularization {self.kind!r} must be {allowed}, got {self.strength}"
            )

    def apply(self, covariance: Tensor, count: int, *, noise: float | None = None) -> Tensor:
        """Return the regularized covariance; the argument is not changed.

        Args:
            covariance: ``(hidden, hidden)`` float64 sample covariance.
            count: The number of tokens that it was computed from.
            noise: Its expected squared error, :func:`sampling_noise`; ``"ledoit-wolf"`` needs it.

        Raises:
            StatisticsError: ``noise`` is needed and was not given.
        """
        if not len(covariance):
            return covariance.clone()
        if self.kind == "ridge":
            return _with_ridge(covariance, self.strength)
        if self.kind == "diagonal":
            shrunk = covariance * (1 - self.strength)
            shrunk.diagonal().copy_(covariance.diagonal())
            return shrunk
        if self.kind == "ledoit-wolf":
            return _ledoit_wolf(covariance, noise, self.strength)
        if self.kind == "oas":
            return _oas(covariance, max(count * self.strength, 1.0))
        return _with_ridge(_above_edge(covariance, max(count * self.strength, 1.0)), 1e-3)


CANDIDATES = (
    *(Regularization("ridge", strength) for strength in (1e-4, 1e-3, 1e-2, 1e-1)),
    *(Regularization("diagonal", strength) for strength in (1e-3, 1e-2, 1e-1)),
    Regularization("ledoit-wolf", 1.0),
    Regularization("oas", 1.0),
)
"""Default candidates of :func:`choose_regularization`."""


def choose_regularization(
    site: SiteStatistics,
    weights: SiteWeights,
    kept: Tensor,
    *,
    candidates: Sequence[Regularization] = CANDIDATES,
    metric: Tensor | None = None,
) -> tuple[Regularization, list[float]]:
    """Choose the regularization whose compensation has the smallest error on held-out images.

    The compensation is fitted on each half of the images and evaluated on the other.

    Args:
        site: Statistics whose halves have covariances.
        weights: The dense weights.
        kept: ``(kept,)`` int64, the kept neurons.
        candidates: The regularizations to compare; of equal ones the first is chosen.
        metric: ``G`` ``(out, out)`` that weighs output errors, or None for the identity.

    Returns:
        The chosen regularization, and the error of every candidate, the mean of both directions (infinite where the
        regularized matrix is singular).

    Raises:
        ConfigurationError: No candidates.
        StatisticsError: The statistics have no halves with covariances.
    """
    if not candidates:
        raise ConfigurationError("candidates must hold at least one regularization")
    halves = full_halves(site)
    if halves is None:
        raise StatisticsError(
            f"the statistics of site {site.name!r} hold no covariances of two halves of the images, which are needed "
            "to choose a regularization; gather them, or name a regularization, such as ridge"
        )
    first, second = halves
    covariances = [covariance_of(half, site.name) for half in halves]
    # The noise of one half is twice that of the whole.
    noise = 2 * sampling_noise(*covariances)
    trials = [
        _Trial(first, covariances[0], second, weights, kept, metric, noise),
        _Trial(second, covariances[1], first, weights, kept, metric, noise),
    ]
    errors = [sum(trial.error(candidate) for trial in trials) / 2 for candidate in candidates]
    return candidates[min(range(len(errors)), key=errors.__getitem__)], errors


def sampling_noise(first: Tensor, second: Tensor) -> float:
    """Return the expected squared error (Frobenius) of the mean of two independent sample covariances.

    It is ``|first - second|^2 / 4``, for any dependence of the tokens within each; for one alone it is twice that.
    """
    return float((first - second).square().sum() / 4)


@dataclass(frozen=True)
class _Trial:
    """A compensation fitted on one half of the images and evaluated on the other."""

    fitted: Moments
    covariance: Tensor
    held_out: Moments
    weights: SiteWeights
    kept: Tensor
    metric: Tensor | None
    noise: float

    def error(self, candidate: Regularization) -> float:
        pruned = complement(self.kept, self.weights.hidden)
        regularized = candidate.apply(self.covariance, self.fitted.count, noise=self.noise)
        removed = self.weights.fc2_weight[:, pruned]
        folded = fold(regularized, self.kept, pruned, removed)
        if folded is None:
            return float("inf")
        # The compensated output minus the dense one is W_P (B (h_K - m_K) - (h_P - m_P)), with m of the fitted half.
        change = torch.empty_like(self.weights.fc2_weight)
        change[:, pruned], change[:, self.kept] = -removed, folded
        return expected_error(change, -change @ self.fitted.mean, self.held_out, self.metric)[0]


def _with_ridge(covariance: Tensor, strength: float) -> Tensor:
    ridged = covariance.clone()
    ridged.diagonal().add_(strength * covariance.diagonal().mean())
    return ridged


def _ledoit_wolf(covariance: Tensor, noise: float | None, strength: float) -> Tensor:
    if noise is None:
        raise StatisticsError(
            "the regularization ledoit-wolf needs covariances of two halves of the images, which these statistics "
            "do not hold; gather them from more than 16 images, or use another one, such as ridge"
        )
    mean = covariance.diagonal().mean()
    # The squared distance of the sample covariance from its target: the spread of the true one, plus the noise.
    distance = covariance.square().sum() - len(covariance) * mean.square()
    share = min(1.0, strength * noise / float(distance)) if distance > 0 else 0.0
    shrunk = covariance * (1 - share)
    shrunk.diagonal().add_(share * mean)
    return shrunk


def _oas(covariance: Tensor, samples: float) -> Tensor:
    size = len(covariance)
    trace, squared = covariance.trace(), covariance.square().sum()
    mean = trace / size
    spread = squared - trace.square() / size
    if spread <= 0:
        # It is a multiple of the identity.
        return covariance.clone()
    share = ((1 - 2 / size) * squared + trace.square()) / ((samples + 1 - 2 / size) * spread)
    share = share.clamp(max=1.0)
    shrunk = covariance * (1 - share)
    shrunk.diagonal().add_(share * mean)
    return shrunk


def _above_edge(covariance: Tensor, samples: float) -> Tensor:
    """Zero the eigenvalues below the Marchenko-Pastur edge; the median eigenvalue gives the noise level."""
    aspect = len(covariance) / samples
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    positive = eigenvalues[eigenvalues > torch.finfo(covariance.dtype).eps * len(covariance) * eigenvalues[-1]]
    if not len(positive):
        return covariance.clone()
    noise = positive.median() / _marchenko_pastur_median(aspect)
    kept: Tensor = torch.where(eigenvalues > noise * (1 + aspect**0.5) ** 2, eigenvalues, 0.0)
    denoised: Tensor = (vectors * kept) @ vectors.T
    return denoised


def _marchenko_pastur_median(aspect: float, points: int = 4000) -> float:
    """Return the median of the positive part of the Marchenko-Pastur law of unit noise."""
    low, high = (1 - aspect**0.5) ** 2, (1 + aspect**0.5) ** 2
    # x = center - radius cos(t) flattens the square-root singularities at both ends.
    angle = (torch.arange(points, dtype=torch.float64) + 0.5) * (torch.pi / points)
    x = (low + high) / 2 - (high - low) / 2 * angle.cos()
    mass = (angle.sin().square() / x).cumsum(0)
    return float(x[torch.searchsorted(mass, mass[-1] / 2)])

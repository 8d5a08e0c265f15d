"""Regularization of covariances before they are inverted. Pure tensors in float64.

A sample covariance from too few images overfits: its small eigenvalues are too small, and the least-squares
compensation that inverts them is good on the calibration images only. The best kind and strength of regularization
differ between sites and numbers of images; :func:`choose_regularization` chooses them by the error on held-out images,
:func:`automatic_regularization` chooses the strength of the default kind.

The variances of the neurons of a site may differ by many orders of magnitude: some models have a few neurons of 1e3 to
1e5 times the median variance. What is added to all of them as a share of the mean variance is then larger than the
variance of the others. The default kind therefore is relative to the variance of each neuron.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hf_vbp.adapters.site_weights import SiteWeights
from hf_vbp.compensation.least_squares import complement, fold
from hf_vbp.errors import ConfigurationError, StatisticsError
from hf_vbp.statistics.moments import Moments
from hf_vbp.statistics.site_moments import covariance_of, full_halves, negligible
from hf_vbp.statistics.site_statistics import SiteStatistics

KINDS = ("ridge", "diagonal", "ledoit-wolf", "oas", "edge")
# Values of the option ``regularization`` that are computed from the covariances of two halves of the images.
NEED_HALVES = ("held-out", "ledoit-wolf")


@dataclass(frozen=True)
class Regularization:
    """A kind of regularization and its strength.

    Attributes:
        kind: ``"ridge"`` adds ``strength`` times the mean variance to the diagonal. ``"diagonal"`` shrinks all
            correlations by ``strength`` and keeps the variances, whatever their scales; 1 leaves no correlation, which
            is the mean shift. ``"ledoit-wolf"`` shrinks towards a multiple of
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
            variances = covariance.diagonal()
            shrunk.diagonal().copy_(variances + self.strength * negligible(variances))
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


# Shares that all correlations may be shrunk by; 1 is the mean shift.
STRENGTHS = (1e-2, 3e-2, 1e-1, 3e-1, 1.0)
# One that stands for all: where neither it nor the mean shift pays, the others are not tried.
TYPICAL = 1e-1
PAYS = 0.9
"""The error on held-out images, as a share of that of the weak regularization, below which another one is chosen.
Half of the images need a stronger one than all of them, so a small gain there is none."""
PER_TOKEN = 0.25
"""The share by which correlations are shrunk at least, times the tokens for each kept neuron. The error of a sample
correlation is of the order of one over the tokens, and adds up over the kept neurons."""


def least_strength(strength: float, kept: int, tokens: int, *, share: float = PER_TOKEN) -> float:
    """Return a strength that suits the tokens, at least the given one; 0 stays 0.

    Args:
        strength: From 0 to 1.
        kept: Number of kept neurons.
        tokens: Number of tokens.
        share: Multiplies the kept neurons over the tokens.
    """
    return max(strength, min(share * kept / max(tokens, 1), 1.0)) if strength else 0.0


def automatic_regularization(
    site: SiteStatistics, weights: SiteWeights, kept: Tensor, *, strength: float, metric: Tensor | None = None
) -> Regularization:
    """Return the kind ``"diagonal"`` with a strength that suits the site, whatever the scales of its neurons.

    It is ``strength``, or a quarter of the kept neurons over the tokens where this is more. Where the statistics hold
    covariances of two halves of the images, it is another one if this lowers the error on held-out images by a tenth.

    Args:
        site: Statistics with covariances.
        weights: The dense weights.
        kept: ``(kept,)`` int64, the kept neurons.
        strength: The share by which all correlations are shrunk at least; 0 is returned unchanged.
        metric: ``G`` ``(out, out)`` that weighs output errors, or None for the identity.
    """
    plain = Regularization("diagonal", strength)
    if not strength or not 0 < len(kept) < weights.hidden:
        return plain
    weak = replace(plain, strength=least_strength(strength, len(kept), site.moments.count))
    others = [Regularization("diagonal", share) for share in STRENGTHS if share > strength]
    halves = full_halves(site)
    if halves is None or not others:
        return weak
    held_out = _held_out_error(site, halves, weights, kept, metric)
    found = {weak: held_out(weak)}
    found.update((other, held_out(other)) for other in others if other.strength in (TYPICAL, 1.0))
    if min(found.values()) >= PAYS * found[weak]:
        return weak
    found.update((other, held_out(other)) for other in others if other not in found)
    return min(found, key=found.__getitem__)


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
    held_out = _held_out_error(site, halves, weights, kept, metric)
    errors = [held_out(candidate) for candidate in candidates]
    return candidates[min(range(len(errors)), key=errors.__getitem__)], errors


def sampling_noise(first: Tensor, second: Tensor) -> float:
    """Return the expected squared error (Frobenius) of the mean of two independent sample covariances.

    It is ``|first - second|^2 / 4``, for any dependence of the tokens within each; for one alone it is twice that.
    """
    return float((first - second).square().sum() / 4)


def _held_out_error(
    site: SiteStatistics,
    halves: tuple[Moments, Moments],
    weights: SiteWeights,
    kept: Tensor,
    metric: Tensor | None,
) -> Callable[[Regularization], float]:
    """Return the error of a regularization: fitted on each half and evaluated on the other, the mean of both."""
    first, second = halves
    covariances = [covariance_of(half, site.name) for half in halves]
    # The noise of one half is twice that of the whole.
    noise = 2 * sampling_noise(*covariances)
    trials = [
        _Trial.of(first, covariances[0], second, covariances[1], weights, kept, metric, noise),
        _Trial.of(second, covariances[1], first, covariances[0], weights, kept, metric, noise),
    ]
    return lambda candidate: sum(trial.error(candidate) for trial in trials) / 2


@dataclass(frozen=True, eq=False)
class _Trial:
    """A compensation fitted on one half of the images and evaluated on the other.

    The error of the output is ``F (h_K - m_K) - W_P (h_P - m_P)``, with the folded columns ``F``, the removed ones
    ``W_P`` and the means ``m`` of the fitted half. With the covariance ``H`` and the means ``m + d`` of the other
    half, its second moment there consists of ``F H_KK F^T``, ``F H_KP W_P^T``, ``W_P H_PP W_P^T`` and
    ``F d_K - W_P d_P``.
    """

    covariance: Tensor
    count: int
    noise: float
    kept: Tensor
    pruned: Tensor
    removed: Tensor
    metric: Tensor | None
    held_out: Tensor
    cross: Tensor
    shift: Tensor
    kept_shift: Tensor
    constant: float

    @classmethod
    def of(
        cls,
        fitted: Moments,
        covariance: Tensor,
        other: Moments,
        held_out: Tensor,
        weights: SiteWeights,
        kept: Tensor,
        metric: Tensor | None,
        noise: float,
    ) -> "_Trial":
        pruned = complement(kept, weights.hidden)
        removed = weights.fc2_weight[:, pruned]
        mean = other.mean - fitted.mean
        # A neuron that is large in few images only may be small throughout one half. All images show that it is not,
        # so it is not used as if it were.
        unseen = (held_out.diagonal() - 3 * covariance.diagonal()).clamp(min=0) / 2
        covariance = covariance + torch.diag(unseen)
        of_removed = removed if metric is None else metric @ removed
        return cls(
            covariance=covariance,
            count=fitted.count,
            noise=noise,
            kept=kept,
            pruned=pruned,
            removed=removed,
            metric=metric,
            held_out=held_out[kept][:, kept],
            cross=held_out[kept][:, pruned] @ of_removed.T,
            shift=removed @ mean[pruned],
            kept_shift=mean[kept],
            constant=float((of_removed * (removed @ held_out[pruned][:, pruned])).sum()),
        )

    def error(self, candidate: Regularization) -> float:
        regularized = candidate.apply(self.covariance, self.count, noise=self.noise)
        folded = fold(regularized, self.kept, self.pruned, self.removed)
        if folded is None:
            return float("inf")
        weighted = folded if self.metric is None else self.metric @ folded
        offset = folded @ self.kept_shift - self.shift
        bias = offset @ (offset if self.metric is None else self.metric @ offset)
        spread = (weighted * (folded @ self.held_out)).sum() - 2 * (folded.T * self.cross).sum()
        return max(float(spread + bias) + self.constant, 0.0)


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

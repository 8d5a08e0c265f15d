"""What a criterion is given, what it returns, and the registry that names them.

Pure tensors: nothing here knows of models, files or transformers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hf_vbp.errors import ConfigurationError, NonFiniteError, StatisticsError
from hf_vbp.statistics.moments import Moments, with_diagonal


class MomentsLike(Protocol):
    """The moments of the hidden neurons of one site; :class:`hf_vbp.statistics.moments.Moments` is one."""

    @property
    def count(self) -> int:
        """The number of tokens."""
        ...

    @property
    def mean(self) -> Tensor:
        """``(hidden,)`` float64."""
        ...

    @property
    def variance(self) -> Tensor:
        """``(hidden,)`` float64, sample variance."""
        ...

    @property
    def comoment(self) -> Tensor | None:
        """``(hidden, hidden)`` float64, sum of centred outer products, or None when not gathered."""
        ...


class SiteStatisticsLike(Protocol):
    """What the maths needs of :class:`hf_vbp.statistics.SiteStatistics`."""

    @property
    def name(self) -> str:
        """The name of the site, for messages."""
        ...

    @property
    def moments(self) -> MomentsLike:
        """The moments over all tokens of all images."""
        ...

    @property
    def metric(self) -> Tensor | None:
        """``(out, out)`` float64, ``G = E[g g^T]`` for gradients at the output of the site, or None."""
        ...

    @property
    def weighted(self) -> MomentsLike | None:
        """The moments in which tokens count by the norm of their gradient, or None when not gathered."""
        ...

    @property
    def halves(self) -> tuple[MomentsLike, MomentsLike] | None:
        """The moments of two disjoint halves of the images, or None; see :func:`full_halves` for co-moments."""
        ...


class _SiteLike(Protocol):
    @property
    def fc1(self) -> nn.Linear: ...

    @property
    def fc2(self) -> nn.Linear: ...


@dataclass(frozen=True, eq=False)
class SiteWeights:
    """The weights of one MLP site as float64 copies on the CPU.

    Attributes:
        fc1_weight: ``(hidden, in)``.
        fc1_bias: ``(hidden,)`` or None.
        fc2_weight: ``(out, hidden)``.
        fc2_bias: ``(out,)`` or None.
    """

    fc1_weight: Tensor
    fc1_bias: Tensor | None
    fc2_weight: Tensor
    fc2_bias: Tensor | None

    @classmethod
    def of(cls, site: _SiteLike) -> "SiteWeights":
        """Copy the weights of ``site`` (anything with the linears ``fc1`` and ``fc2``)."""

        def copy(parameter: Tensor) -> Tensor:
            # copy=True: for a float64 model on the CPU, `to` alone would share memory with the model.
            return parameter.detach().to(device="cpu", dtype=torch.float64, copy=True)

        fc1, fc2 = site.fc1, site.fc2
        return cls(
            fc1_weight=copy(fc1.weight),
            fc1_bias=None if fc1.bias is None else copy(fc1.bias),
            fc2_weight=copy(fc2.weight),
            fc2_bias=None if fc2.bias is None else copy(fc2.bias),
        )

    @property
    def hidden(self) -> int:
        """The number of hidden neurons."""
        return self.fc2_weight.shape[1]


@dataclass(frozen=True, eq=False)
class Ranking:
    """One score for each hidden neuron of one site; the lowest goes first.

    Scores of different sites are compared with each other when the budget is shared by all of them.

    Attributes:
        scores: ``(hidden,)`` float64.
        ties: ``(hidden,)`` int64, the order among neurons of this site whose scores are equal.
    """

    scores: Tensor
    ties: Tensor

    @classmethod
    def from_scores(cls, scores: Tensor) -> "Ranking":
        """Rank by ``scores`` ``(hidden,)``; equal ones in the order of their index."""
        return cls(scores.to(torch.float64), torch.arange(scores.shape[0]))

    def order(self) -> Tensor:
        """Return the ``(hidden,)`` indices of the neurons, first to go first."""
        by_ties = torch.argsort(self.ties, stable=True)
        return by_ties[torch.argsort(self.scores[by_ties], stable=True)]


Criterion = Callable[..., list[Ranking]]

CRITERIA: dict[str, Criterion] = {}
"""Name to criterion; filled by :func:`register_criterion`."""


def register_criterion(name: str) -> Callable[[Criterion], Criterion]:
    """Make a criterion known under ``name``, as a decorator.

    The criterion is called with the statistics and the weights of all sites, in the same order, and with its
    options by keyword; it returns one :class:`Ranking` per site. The first line of its docstring is what
    ``hf-vbp prune --help`` shows.

    Raises:
        ConfigurationError: The name is taken.
    """

    def register(criterion: Criterion) -> Criterion:
        if name in CRITERIA:
            raise ConfigurationError(f"a criterion {name!r} is registered already; choose another name")
        CRITERIA[name] = criterion
        return criterion

    return register


def rank(
    name: str,
    statistics: Sequence[SiteStatisticsLike],
    weights: Sequence[SiteWeights],
    **options: Any,
) -> list[Ranking]:
    """Score every hidden neuron of every site by the criterion ``name``.

    Args:
        name: A key of :data:`CRITERIA`.
        statistics: One per site.
        weights: One per site, in the same order.
        **options: What the criterion takes by keyword.

    Raises:
        ConfigurationError: No such criterion.
        StatisticsError: Statistics and weights do not fit each other, or lack what the criterion needs.
        NonFiniteError: A score is NaN or infinite.
    """
    if name not in CRITERIA:
        known = ", ".join(sorted(CRITERIA))
        raise ConfigurationError(f"there is no criterion {name!r}; choose one of: {known}")
    check_fit(statistics, weights)
    rankings = CRITERIA[name](statistics, weights, **options)
    for site, ranking in zip(statistics, rankings, strict=True):
        bad = (~torch.isfinite(ranking.scores)).sum().item()
        if bad:
            raise NonFiniteError(
                f"criterion {name!r} gave {bad} scores of site {site.name!r} that are NaN or infinite; "
                "look for such values in the weights and in the calibration images"
            )
    return rankings


def check_fit(statistics: Sequence[SiteStatisticsLike], weights: Sequence[SiteWeights]) -> None:
    """Raise StatisticsError unless there is one entry of each per site and their widths agree."""
    if len(statistics) != len(weights):
        raise StatisticsError(
            f"the statistics hold {len(statistics)} sites and the model {len(weights)}; gather them anew"
        )
    for site, site_weights in zip(statistics, weights, strict=True):
        gathered = site.moments.mean.shape[0]
        if gathered != site_weights.hidden:
            raise StatisticsError(
                f"site {site.name!r} has {site_weights.hidden} hidden neurons and its statistics {gathered}; "
                "gather them anew on this model"
            )


def covariance_of(moments: MomentsLike, name: str) -> Tensor:
    """Return the sample covariance ``(hidden, hidden)`` float64.

    Raises:
        StatisticsError: Only variances were gathered, or fewer than two tokens.
    """
    if moments.comoment is None:
        raise StatisticsError(
            f"the statistics of site {name!r} hold variances only, and covariances are needed here; "
            "gather them with moments='full'"
        )
    if moments.count < 2:
        raise StatisticsError(f"site {name!r} saw {moments.count} tokens; a covariance needs two or more")
    return moments.comoment / (moments.count - 1)


TOKEN_WEIGHTS = ("auto", "gradient", "none")


def least_squares_moments(site: SiteStatisticsLike, token_weights: str) -> MomentsLike:
    """Return the moments that least squares is to be fitted to.

    Args:
        site: The statistics of the site.
        token_weights: ``"gradient"``, tokens count by the norm of their gradient; ``"none"``, all alike; ``"auto"``,
            the former where it was gathered.

    Raises:
        ConfigurationError: There are no such weights.
        StatisticsError: ``"gradient"`` was asked for and not gathered.
    """
    if token_weights not in TOKEN_WEIGHTS:
        raise ConfigurationError(f"token_weights must be one of {', '.join(TOKEN_WEIGHTS)}, not {token_weights!r}")
    if site.weighted is not None and token_weights != "none":
        return site.weighted
    if token_weights == "gradient":
        raise StatisticsError(
            f"the statistics of site {site.name!r} hold no weighted moments; gather them with token_weights=True, or "
            "use token_weights='none'"
        )
    return site.moments


def full_halves(site: SiteStatisticsLike) -> tuple[MomentsLike, MomentsLike] | None:
    """Return both halves of the images with their co-moments, or None where these were not gathered.

    Statistics keep the co-moments of the first half only. Those of the second are what is left of the whole, by the
    pairwise formula, with rounding errors of the size of ``2**-52`` times the co-moments of the whole.
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

"""The interface of criteria, and their registration. Pure tensors."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from hf_vbp._progress import Progress
from hf_vbp.adapters.site_weights import SiteWeights, WeightsOfSites
from hf_vbp.config.registry import CRITERIA, Method
from hf_vbp.config.users_code import named_in_errors
from hf_vbp.errors import ConfigurationError, NonFiniteError, StatisticsError
from hf_vbp.statistics.site_statistics import SiteStatistics


@dataclass(frozen=True, eq=False)
class Ranking:
    """One score for each hidden neuron of one site; the lowest is removed first.

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
        """Return the ``(hidden,)`` indices of the neurons in the order of removal."""
        by_ties = torch.argsort(self.ties, stable=True)
        return by_ties[torch.argsort(self.scores[by_ties], stable=True)]


class Criterion(Method):
    """Scores hidden neurons; those with the lowest scores are removed first.

    A criterion is a frozen dataclass: its fields are its options, ``name`` is its name in configurations and on the
    command line, and :attr:`requires` names the statistics that must be gathered for it. Callers read ``requires`` and
    never check the name.

    Example:
        >>> from dataclasses import dataclass
        >>> from hf_vbp.criteria.base import Criterion, Ranking, register_criterion
        >>> @register_criterion
        ... @dataclass(frozen=True)
        ... class MeanSquare(Criterion):
        ...     name = "mean-square"
        ...     power: float = 1.0
        ...
        ...     def rank(self, statistics, weights):
        ...         squares = [site.moments.variance + site.moments.mean**2 for site in statistics]
        ...         return [Ranking.from_scores(square**self.power) for square in squares]
    """

    @abstractmethod
    def rank(self, statistics: Sequence[SiteStatistics], weights: Sequence[SiteWeights]) -> list[Ranking]:
        """Return one ranking per site.

        Args:
            statistics: One per site, in block order; they hold everything that :attr:`requires` names.
            weights: The dense weights, one per site, in the same order.
        """

    def precompute(
        self,
        statistics: Sequence[SiteStatistics],
        weights: Sequence[SiteWeights],
        *,
        device: str | torch.device | None = None,
        progress: Progress | None = None,
    ) -> Sequence[SiteStatistics]:
        """Return the statistics with results that :meth:`rank` can reuse for every budget; by default unchanged.

        Args:
            statistics: One per site, in block order.
            weights: The dense weights, one per site, in the same order.
            device: Device of the computation; by default that of the statistics.
            progress: Receives the number of finished sites and of all sites.
        """
        return statistics


CriterionT = TypeVar("CriterionT", bound=type[Criterion])


def register_criterion(cls: CriterionT) -> CriterionT:
    """Make a criterion known under its ``name``; a class decorator.

    It then works from Python, in recipes and on the command line. There its module is imported with ``--import
    MODULE``, or by a package entry point of the group ``hf_vbp.criteria`` with the criterion's name; recipes import
    nothing, so they need the entry point.

    Raises:
        ConfigurationError: The class is not a dataclass that derives from :class:`Criterion`, does not define
            :meth:`Criterion.rank`, has no name, or the name is taken.
    """
    CRITERIA.register(cls, Criterion)
    return cls


def rank(
    criterion: Criterion | str, statistics: Sequence[SiteStatistics], weights: Sequence[SiteWeights], **options: Any
) -> list[Ranking]:
    """Score every hidden neuron of every site.

    Args:
        criterion: A criterion, or the name of one.
        statistics: One per site.
        weights: One per site, in the same order.
        **options: Options of a criterion that is given by name.

    Raises:
        ConfigurationError: The name or an option is unknown, or the criterion did not return one :class:`Ranking` per
            site with one score per hidden neuron, or raised an error.
        StatisticsError: Statistics and weights do not match, or the statistics lack something.
        NonFiniteError: A score is NaN or infinite.
    """
    chosen: Criterion = CRITERIA.create(criterion, options) if isinstance(criterion, str) else criterion
    check_fit(statistics, weights)
    source = f"criterion {chosen.name!r}"
    with named_in_errors(f"rank of {source}", type(chosen)):
        rankings = chosen.rank(statistics, weights)
    return check_rankings(source, rankings, statistics)


def check_rankings(source: str, rankings: Any, statistics: Sequence[SiteStatistics]) -> list[Ranking]:
    """Return the rankings if there is one per site, with one finite score per hidden neuron.

    Args:
        source: Where they come from, for the message: ``"criterion 'obs'"``.
        rankings: The value to check.
        statistics: One per site.

    Raises:
        ConfigurationError: Their number, type or shape is another one.
        NonFiniteError: A score is NaN or infinite.
    """
    if not isinstance(rankings, Sequence) or len(rankings) != len(statistics):
        given = f"{len(rankings)} rankings" if isinstance(rankings, Sequence) else f"a {type(rankings).__name__}"
        raise ConfigurationError(f"{source} gave {given}, expected a list of {len(statistics)}, one Ranking per site")
    for site, ranking in zip(statistics, rankings, strict=True):
        _check_ranking(source, site, ranking)
    return list(rankings)


def _check_ranking(source: str, site: SiteStatistics, ranking: Ranking) -> None:
    if not isinstance(ranking, Ranking):
        raise ConfigurationError(
            f"{source} gave a {type(ranking).__name__} for site {site.name!r}, expected a Ranking; make one with "
            "Ranking.from_scores(scores)"
        )
    hidden = site.moments.mean.shape[0]
    for what, tensor in (("scores", ranking.scores), ("ties", ranking.ties)):
        if not isinstance(tensor, Tensor) or tensor.ndim != 1:
            given = f"shape {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else f"type {type(tensor).__name__}"
            raise ConfigurationError(
                f"{source} gave {what} of {given} for site {site.name!r}, expected a tensor of shape ({hidden},)"
            )
        if len(tensor) != hidden:
            raise ConfigurationError(
                f"{source} gave {len(tensor)} {what} for site {site.name!r}, expected {hidden}, one per hidden neuron"
            )
    bad = int((~torch.isfinite(ranking.scores)).sum())
    if bad:
        raise NonFiniteError(
            f"{source} gave {bad} scores of site {site.name!r} that are NaN or infinite; look for such values in the "
            "weights and in the calibration images"
        )


def check_fit(statistics: Sequence[SiteStatistics], weights: Sequence[SiteWeights]) -> None:
    """Raise StatisticsError unless there is one entry of each per site and their widths agree."""
    if len(statistics) != len(weights):
        raise StatisticsError(
            f"the statistics hold {len(statistics)} sites and the model {len(weights)}; gather them again"
        )
    widths = weights.widths() if isinstance(weights, WeightsOfSites) else [entry.hidden for entry in weights]
    for site, hidden in zip(statistics, widths, strict=True):
        gathered = site.moments.mean.shape[0]
        if gathered != hidden:
            raise StatisticsError(
                f"site {site.name!r} has {hidden} hidden neurons and its statistics {gathered}; "
                "gather them again on this model"
            )

"""The curve of one site's greedy elimination."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hf_vbp.errors import ConfigurationError, StatisticsError


@dataclass(frozen=True, eq=False)
class EliminationCurve:
    """The order in which the neurons of one site are eliminated, and the cost of each step.

    Attributes:
        order: ``(hidden,)`` int64, the neurons in the order of elimination. The neurons kept at a smaller width are a
            subset of those kept at a larger one.
        costs: ``(hidden,)`` float64, 0 or more: the increase of the expected squared error of the output per token
            at each step, in the metric of the options, after the refit.
        options: The options of the criterion that the curve was made with, ``"auto"`` resolved.
    """

    order: Tensor
    costs: Tensor
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def errors(self) -> Tensor:
        """``(hidden + 1,)`` float64: the expected squared output error after 0, 1, ... eliminations."""
        return torch.cat([self.costs.new_zeros(1), self.costs.cumsum(0)])

    def kept(self, width: int) -> Tensor:
        """Return the ``(width,)`` kept neurons at this width, ascending.

        Raises:
            ConfigurationError: ``width`` is not between 0 and the number of neurons.
        """
        if not 0 <= width <= self.order.shape[0]:
            raise ConfigurationError(f"width must be between 0 and {self.order.shape[0]}, got {width}.")
        return self.order[self.order.shape[0] - width :].sort().values

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the tensors to be saved; :meth:`from_tensors` is the inverse."""
        return {"order": self.order, "costs": self.costs}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], options: Mapping[str, Any] | None = None
    ) -> "EliminationCurve":
        """Rebuild a curve that was saved.

        Raises:
            StatisticsError: The order is not a permutation, or a cost is negative or NaN.
        """
        missing = {"order", "costs"} - set(tensors)
        if missing:
            raise StatisticsError(f"An elimination curve needs 'order' and 'costs'; missing: {sorted(missing)}.")
        order, costs = tensors["order"], tensors["costs"]
        if order.ndim != 1 or not torch.equal(order.sort().values, torch.arange(order.shape[0])):
            raise StatisticsError("The order of an elimination curve must be a permutation of the neurons (int64).")
        if costs.shape != order.shape or not (costs.isfinite() & (costs >= 0)).all():
            raise StatisticsError("The costs of an elimination curve must be finite, 0 or more, one per neuron.")
        return cls(order, costs.to(torch.float64), dict(options or {}))

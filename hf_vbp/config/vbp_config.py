"""The one configuration object."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from torch import nn

from hf_vbp.compensation.compensate import COMPENSATIONS
from hf_vbp.compensation.regularization import NEED_HALVES
from hf_vbp.config.budget import Budget, one_budget
from hf_vbp.criteria.base import CRITERIA
from hf_vbp.pruning.plan import known
from hf_vbp.pruning.removal_order import SCOPES, Limits

PRESETS: dict[str, dict[str, Any]] = {
    "best": {"criterion": "obs", "compensation": "linear"},
    "paper": {"criterion": "variance", "compensation": "mean", "scope": "global"},
}
"""The method by name: what wins (docs/beyond_the_paper.md), and exactly what the paper does."""


@dataclass(frozen=True)
class VBPConfig:
    """What to remove and how. Exactly one budget must be given.

    Attributes:
        ratio: Share of hidden neurons to remove over all MLPs, in (0, 1). The paper's "pruning ratio".
        target_parameters: Share of the model's parameters that must be left.
        target_macs: Share of the model's MACs that must be left.
        target_latency: Share of the model's latency on this device that must be left.
        criterion: What makes the scores: ``"obs"``, greedy elimination with refit, is what wins; the paper's is
            ``"variance"``. :data:`hf_vbp.criteria.CRITERIA` lists all.
        compensation: What is done to the weights that stay: ``"linear"``, least squares, is what wins; the
            paper's is ``"mean"``.
        scope: ``"global"`` ranks all neurons at once (the paper); ``"layer"`` takes the same share of each
            site, so that the result loads in plain transformers.
        minimum_width: Neurons that every site keeps.
        round_to: Multiple that widths are rounded to.
        criterion_options: What the criterion takes besides.
        compensation_options: What the compensation takes besides.

    Raises:
        ConfigurationError: No budget or more than one, or an unknown name.
        BudgetError: A share outside (0, 1).

    Example:
        >>> from hf_vbp import VBPConfig
        >>> VBPConfig(ratio=0.5).budget
        Budget(kind='ratio', asked=0.5, achieved=None)
        >>> VBPConfig.preset("paper", ratio=0.5).compensation
        'mean'
    """

    ratio: float | None = None
    target_parameters: float | None = None
    target_macs: float | None = None
    target_latency: float | None = None
    criterion: str = "obs"
    compensation: str = "linear"
    scope: str = "global"
    minimum_width: int = 1
    round_to: int = 1
    criterion_options: Mapping[str, Any] = field(default_factory=dict)
    compensation_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known("criterion", self.criterion, list(CRITERIA))
        known("compensation", self.compensation, list(COMPENSATIONS))
        known("scope", self.scope, list(SCOPES))
        _ = self.budget, self.limits

    @classmethod
    def preset(cls, name: str, **fields: Any) -> "VBPConfig":
        """Return a configuration with the method of a preset.

        Args:
            name: A key of :data:`PRESETS`; ``"paper"`` is exactly the paper's method.
            fields: The budget, and whatever else differs from the preset.

        Raises:
            ConfigurationError: There is no such preset.

        Example:
            >>> VBPConfig.preset("paper", ratio=0.5).criterion
            'variance'
        """
        return cls(**{**PRESETS[known("preset", name, list(PRESETS))], **fields})

    @property
    def budget(self) -> Budget:
        """The one budget that was given."""
        return one_budget(
            ratio=self.ratio,
            parameters=self.target_parameters,
            macs=self.target_macs,
            latency=self.target_latency,
        )

    @property
    def limits(self) -> Limits:
        """Floor and rounding."""
        return Limits(self.minimum_width, self.round_to)

    def needs(self, model: nn.Module) -> dict[str, Any]:
        """Return what must be gathered on ``model``, as options of :func:`hf_vbp.collect_statistics`.

        The output metric of ``obs`` and its token weights need predicted labels; for a bare backbone all output
        directions and all tokens count alike, and the plan says so (``predicted["metric"]``).
        """
        full = self.criterion == "obs" or self.compensation == "linear"
        classifies = "ForImageClassification" in type(model).__name__
        by_halves = self.compensation_options.get("regularisation") in NEED_HALVES
        return {
            "moments": "full" if full else "diagonal",
            "output_metric": self.criterion == "obs" and classifies,
            "half_comoments": full and by_halves,
            "token_weights": self.criterion == "obs" and classifies,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: every field that was given."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {name: value for name, value in values.items() if value is not None and value != {}}

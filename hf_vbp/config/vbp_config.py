"""The one configuration object, which every step of the pipeline accepts with the same meaning."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from hf_vbp._progress import shown
from hf_vbp.config.budget import DEFAULT_PRECISION, Budget
from hf_vbp.config.levers import check_levers, used_levers
from hf_vbp.config.limits import AUTO, SCOPES, Limits
from hf_vbp.config.presets import DEFAULT_COMPENSATION, DEFAULT_CRITERION, PRESETS
from hf_vbp.config.registry import COMPENSATIONS, CRITERIA, check_choice
from hf_vbp.config.requirements import Requirements
from hf_vbp.errors import ConfigurationError

# Field of the budget to its kind.
BUDGETS = {
    "ratio": "ratio",
    "target_parameters": "parameters",
    "target_macs": "macs",
    "target_latency": "latency",
}


@dataclass(frozen=True)
class VBPConfig:
    """The budget and the method of pruning.

    :func:`hf_vbp.collect_statistics`, :func:`hf_vbp.make_plan`, :func:`hf_vbp.prune`, :func:`hf_vbp.sweep`, recipes
    and the command line accept the same object with the same meaning. At most one budget may be given; gathering
    statistics and sweeps need none.

    Attributes:
        ratio: Share of hidden neurons to remove over all MLPs, in (0, 1). The paper's "pruning ratio".
        target_parameters: Share of the model's parameters to keep; of those of the vision tower, where the model takes
            texts too.
        target_macs: Share of the model's MACs to keep, as for ``target_parameters``.
        target_latency: Share of the model's latency on this device to keep, or a time such as ``"12ms"``. Measured
            while the plan is made.
        criterion: Name of the criterion, which scores the neurons. ``"obs"`` (Optimal Brain Surgeon: greedy
            elimination with refit) has the lowest measured damage; the paper's is ``"variance"``.
        compensation: Name of the compensation, which adjusts the kept weights. ``"linear"`` (least squares) has the
            lowest measured damage; the paper's is ``"mean"``.
        scope: ``"global"`` ranks all neurons at once (the paper); ``"layer"`` removes the same share of each site, so
            that plain transformers loads the result.
        minimum_width: Neurons that every site keeps.
        round_to: Multiple that widths are rounded to. ``"auto"`` measures which of 1, 8, 16, ... is fastest for the
            shape, the dtype and the device of the model (:mod:`hf_vbp.costs.width_multiple`); it is the default of
            latency budgets, and 1 that of all others and of the preset ``"paper"``. Without a budget, None.
        latency_batch: Images per pass when ``target_latency`` is measured.
        latency_precision: A measurement of ``target_latency`` is repeated until the 95 % interval of the speed-up is
            this share of it to either side.
        latency_dtype: Dtype in which ``target_latency`` is measured, ``"float32"``, ``"bfloat16"`` or ``"float16"``;
            by default that of the model.
        latency_compile: Whether ``target_latency`` is measured on models compiled by ``torch.compile``.
        levers: What may be changed to meet the budget: ``"mlp"`` (narrower MLPs), ``"tokens"`` (merged tokens). By
            default both for a budget of MACs or latency, where the model allows merging, and ``"mlp"`` otherwise; see
            :attr:`used_levers`. The preset ``"paper"`` is ``("mlp",)``.
        merge_tokens: Merge this many tokens before every block but the first, instead of choosing the number that
            damages the model least. It is used with every budget.
        criterion_options: Options of the criterion, by name.
        compensation_options: Options of the compensation, by name.

    Raises:
        ConfigurationError: More than one budget, or an unknown or invalid name, option or limit.
        BudgetError: A share outside (0, 1).

    Example:
        >>> from hf_vbp import VBPConfig
        >>> VBPConfig(ratio=0.5).budget
        Budget(kind='ratio', asked=0.5)
        >>> VBPConfig.preset("paper", ratio=0.5).compensation
        'mean'
    """

    ratio: float | None = None
    target_parameters: float | None = None
    target_macs: float | None = None
    target_latency: float | str | None = None
    criterion: str = DEFAULT_CRITERION
    compensation: str = DEFAULT_COMPENSATION
    scope: str = "global"
    minimum_width: int = 1
    round_to: int | Literal["auto"] | None = None
    latency_batch: int = 1
    latency_precision: float = DEFAULT_PRECISION
    latency_dtype: str | None = None
    latency_compile: bool = False
    levers: tuple[str, ...] | None = None
    merge_tokens: int | None = None
    criterion_options: Mapping[str, Any] = field(default_factory=dict)
    compensation_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choice("scope", self.scope, SCOPES)
        for name in ("criterion_options", "compensation_options"):
            if not isinstance(getattr(self, name), Mapping):
                raise ConfigurationError(f"{name} must map option names to values, got {shown(getattr(self, name))}.")
        if type(self.latency_batch) is not int or self.latency_batch < 1:
            raise ConfigurationError(
                f"latency_batch must be a whole number of at least 1, got {shown(self.latency_batch)}."
            )
        precision = self.latency_precision
        if isinstance(precision, bool) or not isinstance(precision, int | float) or not 0 < precision < 1:
            raise ConfigurationError(f"latency_precision must be between 0 and 1, got {shown(precision)}.")
        if self.latency_dtype is not None:
            check_choice("latency_dtype", self.latency_dtype, ("float32", "bfloat16", "float16"))
        if not isinstance(self.latency_compile, bool):
            raise ConfigurationError(f"latency_compile must be true or false, got {shown(self.latency_compile)}.")
        if isinstance(self.levers, list):
            # Lists come from JSON and YAML.
            object.__setattr__(self, "levers", tuple(self.levers))
        check_levers(self.levers, self.merge_tokens)
        if self.round_to is None and self.has_budget:
            object.__setattr__(self, "round_to", AUTO if self.target_latency is not None else 1)
        # Building the parts validates them.
        _ = self.limits, self.make_criterion(), self.make_compensation(), self._budgets()

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "VBPConfig":
        """Return a configuration with the method of a preset.

        Args:
            name: A key of :data:`hf_vbp.config.presets.PRESETS`; ``"paper"`` is exactly the paper's method.
            changes: The budget, and every other field that differs from the preset.

        Raises:
            ConfigurationError: There is no such preset.

        Example:
            >>> VBPConfig.preset("paper", ratio=0.5).criterion
            'variance'
        """
        return cls(**{**PRESETS[check_choice("preset", name, list(PRESETS))], **changes})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "VBPConfig":
        """Return the configuration from its dict form, see :meth:`to_dict`.

        Args:
            values: Fields by name; ``preset`` may name a preset that the other fields change.

        Raises:
            ConfigurationError: A field is unknown or has a value of another type.
        """
        if not isinstance(values, Mapping):
            raise ConfigurationError(f"Expected the fields of a VBPConfig, got {type(values).__name__}.")
        known = [entry.name for entry in fields(cls)]
        unknown = sorted(str(name) for name in values if name not in (*known, "preset"))
        if unknown:
            raise ConfigurationError(f"Unknown field {shown(unknown[0])} of VBPConfig; expected {', '.join(known)}.")
        given = {name: value for name, value in values.items() if name != "preset"}
        return cls.preset(values["preset"], **given) if "preset" in values else cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: every field except budgets not given, empty options and defaults of the latency."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        given = {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}
        kept = {name: value for name, value in given.items() if not name.startswith("latency_")}
        if self.levers is not None:
            kept["levers"] = list(self.levers)
        return {
            name: value for name, value in kept.items() if value is not None and value != {}
        } | self.latency_options

    @property
    def latency_options(self) -> dict[str, Any]:
        """The settings of the measurement of ``target_latency`` that are not the defaults, by name."""
        defaults = {entry.name: entry.default for entry in fields(self) if entry.name.startswith("latency_")}
        return {name: getattr(self, name) for name, default in defaults.items() if getattr(self, name) != default}

    @property
    def budget(self) -> Budget:
        """The one budget.

        Raises:
            ConfigurationError: None was given.
        """
        budgets = self._budgets()
        if not budgets:
            raise ConfigurationError(
                f"This step needs a budget: give VBPConfig one of {', '.join(BUDGETS)}, for instance ratio=0.5."
            )
        return budgets[0]

    @property
    def has_budget(self) -> bool:
        """Whether a budget was given."""
        return bool(self._budgets())

    @property
    def used_levers(self) -> tuple[str, ...]:
        """The levers, or the default ones of the budget."""
        return used_levers(self.levers, self.merge_tokens, self.budget.kind if self.has_budget else "ratio")

    @property
    def method(self) -> dict[str, Any]:
        """Criterion, compensation, scope and limits, ready for JSON: what decides about neurons beside the budget."""
        names = ("criterion", "compensation", "scope", "minimum_width", "round_to")
        options = {name: dict(getattr(self, name)) for name in ("criterion_options", "compensation_options")}
        return {**{name: getattr(self, name) for name in names}, **options, "round_to": self.round_to or 1}

    def with_budget(self, **budget: float | str) -> "VBPConfig":
        """Return the same method with another budget, given as the one field that holds it.

        A default ``round_to`` becomes that of the new budget.
        """
        default = AUTO if self.target_latency is not None else 1
        round_to = None if self.has_budget and self.round_to == default else self.round_to
        return replace(self, **{**dict.fromkeys(BUDGETS), **budget, "round_to": round_to})  # type: ignore[arg-type]

    @property
    def limits(self) -> Limits:
        """Floor and rounding of the widths; a multiple that is not measured yet counts as 1."""
        return Limits(self.minimum_width, 1 if self.round_to in (None, AUTO) else self.round_to)  # type: ignore[arg-type]

    @property
    def requires(self) -> Requirements:
        """The requirements of criterion and compensation."""
        requires: Requirements = self.make_criterion().requires | self.make_compensation().requires
        return requires

    def make_criterion(self) -> Any:
        """Return the :class:`~hf_vbp.criteria.base.Criterion` with its options."""
        return CRITERIA.create(self.criterion, self.criterion_options)

    def make_compensation(self) -> Any:
        """Return the :class:`~hf_vbp.compensation.base.Compensation` with its options."""
        return COMPENSATIONS.create(self.compensation, self.compensation_options)

    def _budgets(self) -> list[Budget]:
        given = {name: getattr(self, name) for name in BUDGETS if getattr(self, name) is not None}
        if len(given) > 1:
            raise ConfigurationError(f"Give one budget of {', '.join(BUDGETS)}; got {', '.join(given)}.")
        return [Budget(BUDGETS[name], value) for name, value in given.items()]


def field_of_budget(kind: str) -> str:
    """Return the field of :class:`VBPConfig` that holds a budget of this kind.

    Raises:
        ConfigurationError: There is no such kind.
    """
    check_choice("budget", kind, list(BUDGETS.values()))
    return next(name for name, value in BUDGETS.items() if value == kind)

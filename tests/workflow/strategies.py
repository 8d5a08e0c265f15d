"""Random configurations that are valid, for property tests."""

from typing import Any

from hypothesis import strategies as st

from hf_vbp.config.vbp_config import VBPConfig

RIDGES = st.floats(1e-4, 1e-1)
CRITERIA: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "obs": {
        "metric": st.sampled_from(["auto", "gradient", "identity"]),
        "ridge": RIDGES,
        "token_weights": st.sampled_from(["auto", "none"]),
    },
    "variance": {},
    "weighted-variance": {},
    "magnitude": {},
    "snip": {},
    "random": {"seed": st.integers(0, 9)},
}
COMPENSATIONS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "linear": {
        "ridge": RIDGES,
        "regularization": st.sampled_from(["auto", "ridge", "diagonal", "ledoit-wolf", "oas", "edge", "held-out"]),
        "token_weights": st.sampled_from(["auto", "none"]),
    },
    "mean": {},
    "none": {},
}
BUDGETS: dict[str, st.SearchStrategy[float]] = {
    "ratio": st.floats(0.05, 0.8),
    "target_parameters": st.floats(0.75, 0.95),
    "target_macs": st.floats(0.75, 0.95),
}


@st.composite
def methods(draw: st.DrawFn) -> dict[str, Any]:
    """Every field of a VBPConfig except the budget."""
    criterion, compensation = draw(st.sampled_from(sorted(CRITERIA))), draw(st.sampled_from(sorted(COMPENSATIONS)))
    return {
        "criterion": criterion,
        "compensation": compensation,
        "scope": draw(st.sampled_from(["global", "layer"])),
        "minimum_width": draw(st.integers(0, 4)),
        "round_to": draw(st.integers(1, 8)),
        "criterion_options": draw(st.fixed_dictionaries({}, optional=CRITERIA[criterion])),
        "compensation_options": draw(st.fixed_dictionaries({}, optional=COMPENSATIONS[compensation])),
    }


@st.composite
def configs(draw: st.DrawFn, *, with_budget: bool = True) -> VBPConfig:
    """A configuration; the latency budget is left out, since it is measured."""
    method = draw(methods())
    if not with_budget:
        return VBPConfig(**method)
    kind = draw(st.sampled_from(sorted(BUDGETS)))
    return VBPConfig(**{kind: draw(BUDGETS[kind])}, **method)

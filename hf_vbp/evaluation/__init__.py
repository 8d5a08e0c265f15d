"""How good a model is, and how close to the model it was made from."""

from typing import TYPE_CHECKING, Any

from hf_vbp.evaluation.measures import kl_divergences, top_k_hits, wilson_interval
from hf_vbp.evaluation.models import Evaluation, evaluate_models
from hf_vbp.evaluation.output_error import OutputErrors

if TYPE_CHECKING:
    from hf_vbp.evaluation.metrics import Agreement, KLDivergence, Top1Accuracy, Top5Accuracy

__all__ = [
    "Agreement",
    "Evaluation",
    "KLDivergence",
    "OutputErrors",
    "Top1Accuracy",
    "Top5Accuracy",
    "evaluate_models",
    "kl_divergences",
    "top_k_hits",
    "wilson_interval",
]

_METRICS = frozenset(("Agreement", "KLDivergence", "Top1Accuracy", "Top5Accuracy"))


def __getattr__(name: str) -> Any:
    # The evaluate library takes a second to import, which measuring models does not need.
    if name in _METRICS:
        from hf_vbp.evaluation import metrics

        return getattr(metrics, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

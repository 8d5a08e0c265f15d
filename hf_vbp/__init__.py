"""Variance-Based Pruning for Hugging Face vision transformers.

Importing this package is light: torch and transformers are imported when a name below is first used. What it
does at once is to arm the reloading of pruned checkpoints, see docs/checkpoints.md.
"""

import importlib
from typing import TYPE_CHECKING, Any

from hf_vbp._version import __version__
from hf_vbp.errors import HfVbpError
from hf_vbp.reloading import arm, disable, enable

if TYPE_CHECKING:
    from hf_vbp.adapters import find_sites, register_adapter
    from hf_vbp.budget import Budget
    from hf_vbp.checkpoint import to_stock, verify_checkpoint
    from hf_vbp.data import load_images
    from hf_vbp.distillation import DistillationArguments, DistillationTrainer
    from hf_vbp.evaluation import evaluate_models
    from hf_vbp.hub.audit import audit
    from hf_vbp.hub.push import push_to_hub
    from hf_vbp.plan import PruningPlan
    from hf_vbp.planning import make_plan, with_curves
    from hf_vbp.pruning import PruningResult, VBPConfig, prune
    from hf_vbp.reloading import from_pretrained
    from hf_vbp.sample import sample_model_path
    from hf_vbp.saving import save_checkpoint
    from hf_vbp.statistics import ActivationStatistics, collect_statistics
    from hf_vbp.surgery import apply_plan

_HOMES = {
    "hf_vbp.adapters": ("find_sites", "register_adapter"),
    "hf_vbp.budget": ("Budget",),
    "hf_vbp.checkpoint": ("to_stock", "verify_checkpoint"),
    "hf_vbp.data": ("load_images",),
    "hf_vbp.distillation": ("DistillationArguments", "DistillationTrainer"),
    "hf_vbp.evaluation": ("evaluate_models",),
    "hf_vbp.hub": ("audit", "push_to_hub"),
    "hf_vbp.plan": ("PruningPlan",),
    "hf_vbp.planning": ("make_plan", "with_curves"),
    "hf_vbp.pruning": ("PruningResult", "VBPConfig", "prune"),
    "hf_vbp.reloading": ("from_pretrained",),
    "hf_vbp.sample": ("sample_model_path",),
    "hf_vbp.saving": ("save_checkpoint",),
    "hf_vbp.statistics": ("ActivationStatistics", "collect_statistics"),
    "hf_vbp.surgery": ("apply_plan",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "ActivationStatistics",
    "Budget",
    "DistillationArguments",
    "DistillationTrainer",
    "HfVbpError",
    "PruningPlan",
    "PruningResult",
    "VBPConfig",
    "__version__",
    "apply_plan",
    "audit",
    "collect_statistics",
    "disable",
    "enable",
    "evaluate_models",
    "find_sites",
    "from_pretrained",
    "load_images",
    "make_plan",
    "prune",
    "push_to_hub",
    "register_adapter",
    "sample_model_path",
    "save_checkpoint",
    "to_stock",
    "verify_checkpoint",
    "with_curves",
]

arm()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

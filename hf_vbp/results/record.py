"""``vbp_results.json``: every figure that was measured, and none that was not.

The schema (version 1) lies beside this file as ``results.schema.json`` and is documented in docs/results.md.
Shares are fractions between 0 and 1, never percent; a figure that was not measured has no key.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_vbp.errors import CheckpointError

SCHEMA_VERSION = 1
RESULTS_NAME = "vbp_results.json"


def describe_base_model(model: Any, source: str | None = None) -> dict[str, str]:
    """Return what identifies the dense model: ``id``, ``revision``, ``model_type``, ``architecture``.

    Args:
        model: The dense model.
        source: The Hub id or folder it was loaded from; by default what the model remembers. Of a folder only
            its name is kept: a path of this machine tells nobody else anything.
    """
    source = source or getattr(model, "name_or_path", "") or ""
    described = {"model_type": str(model.config.model_type), "architecture": type(model).__name__}
    if source == "sample":
        described |= {"id": source, "source": "sample"}
    elif source:
        described["id"] = Path(source).resolve().name if Path(source).exists() else source
        described["source"] = "folder" if Path(source).exists() else "hub"
    revision = getattr(model.config, "_commit_hash", None)
    if revision:
        described["revision"] = str(revision)
    return described


def describe_plan(plan: Any) -> dict[str, Any]:
    """Return the ``plan`` part of the results: everything but the indices, which plan.json holds."""
    written = plan.to_dict()
    names = ("criterion", "compensation", "scope", "budget", "minimum_width", "round_to", "options")
    return {
        **{name: written[name] for name in names},
        **({"latency": written["latency"]} if "latency" in written else {}),
        "ratio": plan.ratio,
        "dense_widths": plan.dense_widths,
        "widths": plan.widths,
    }


def without_unmeasured(value: Any) -> Any:
    """Return a JSON value without its ``None`` and non-finite entries and without empty objects."""
    if isinstance(value, Mapping):
        kept = {key: without_unmeasured(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item is not None and item != {}}
    if isinstance(value, list | tuple):
        return [without_unmeasured(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def to_json(results: Mapping[str, Any]) -> str:
    """Return the text of the results file, the same text for the same results."""
    return json.dumps(without_unmeasured(results), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def load_results(directory: str | Path) -> dict[str, Any]:
    """Read the results of a checkpoint.

    Args:
        directory: The folder of the checkpoint.

    Raises:
        CheckpointError: There is no such file, it is not JSON, or its schema is of another version.
    """
    path = Path(directory) / RESULTS_NAME
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {error}. It is written by `hf-vbp prune`, and by save_checkpoint for a "
            "PruningResult (of a model pruned in steps: PruningResult.from_parts)."
        ) from error
    if not isinstance(results, dict) or results.get("schema_version") != SCHEMA_VERSION:
        raise CheckpointError(f"{path} is not a results file of schema version {SCHEMA_VERSION}.")
    return results


def schema() -> dict[str, Any]:
    """Return the JSON schema of the results file."""
    content: dict[str, Any] = json.loads(Path(__file__).with_name("results.schema.json").read_text(encoding="utf-8"))
    return content

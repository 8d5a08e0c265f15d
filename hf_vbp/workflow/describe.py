"""The parts of ``vbp_results.json`` that follow from a model, its plan and its statistics."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from hf_vbp.adapters.prepared import PreparedModel
from hf_vbp.costs.counts import describe_cost
from hf_vbp.costs.part import counted_part
from hf_vbp.modeling.modeling_hf_vbp import merged_tokens
from hf_vbp.pruning.plan import PruningPlan
from hf_vbp.results.base_model import describe_base_model
from hf_vbp.results.plan import describe_plan
from hf_vbp.results.record import SCHEMA_VERSION
from hf_vbp.results.versions import versions
from hf_vbp.statistics.activation_statistics import ActivationStatistics
from hf_vbp.statistics.split_halves import halves_agreement

UNNAMED = {"source": "unnamed batches"}


def describe_dense(prepared: PreparedModel) -> dict[str, Any]:
    """Return the sections ``base_model`` and ``cost`` of the results, from the model before it is changed."""
    part = counted_part(prepared.model, prepared.sites)
    cost = {"dense": describe_cost(prepared.model, prepared.inputs, part), **({"part": part} if part else {})}
    return {"base_model": describe_base_model(prepared.model), "cost": cost}


def describe_pruning(
    dense: dict[str, Any],
    pruned: nn.Module,
    plan: PruningPlan,
    statistics: ActivationStatistics,
    inputs: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the results of a pruning, in the form of ``vbp_results.json`` (docs/results.md).

    Args:
        dense: Result of :func:`describe_dense`.
        pruned: The pruned model.
        plan: Its plan.
        statistics: The statistics of the dense model.
        inputs: The batch whose MACs are counted, as for the dense model.
    """
    merged = list(merged_tokens(pruned))
    return {
        "schema_version": SCHEMA_VERSION,
        "base_model": dense["base_model"],
        "data": {"calibration": describe_calibration(statistics)},
        "statistics": describe_statistics(statistics),
        "plan": describe_plan(plan),
        **({"merged_tokens": merged} if merged else {}),
        "predicted": dict(plan.predicted),
        "cost": {**dense["cost"], "pruned": describe_cost(pruned, inputs, dense["cost"].get("part", ""))},
        "versions": versions(),
    }


def with_merging(results: dict[str, Any], model: nn.Module, inputs: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the results of a pruning with the tokens that the model merges now.

    Where they are not those of the results, the cost is counted again, and figures of the pruned model that were
    measured before are left out.

    Args:
        results: The results so far.
        model: The pruned model.
        inputs: The batch whose MACs are counted, as for the dense model.
    """
    merged = list(merged_tokens(model))
    if merged == results.get("merged_tokens", []):
        return results
    kept = {
        name: value
        for name, value in results.items()
        if name not in ("merged_tokens", "observed", "latency", "levers")
    }
    evaluation = {name: row for name, row in kept.pop("evaluation", {}).items() if name == "dense"}
    latency = [row for row in results.get("latency", []) if row["model"] == "dense"]
    return {
        **kept,
        "cost": {**kept["cost"], "pruned": describe_cost(model, inputs, kept["cost"].get("part", ""))},
        **({"merged_tokens": merged} if merged else {}),
        **({"evaluation": evaluation} if evaluation else {}),
        **({"latency": latency} if latency else {}),
    }


def describe_calibration(statistics: ActivationStatistics) -> dict[str, Any]:
    """Return the ``data.calibration`` part of the results."""
    return {
        **UNNAMED,
        **statistics.fingerprints["data"],
        "images": statistics.images,
        "tokens": statistics.tokens,
    }


def describe_statistics(statistics: ActivationStatistics) -> dict[str, Any]:
    """Return the ``statistics`` part of the results: kind, dtype, and the agreement between halves of the images."""
    agreement = halves_agreement(statistics)
    described: dict[str, Any] = {
        "moments": statistics.fingerprints["moments"],
        "dtype": statistics.fingerprints["dtype"],
    }
    if agreement is not None:
        described["halves"] = agreement.to_dict()
    return described


def describe_images(images: Any) -> dict[str, Any]:
    """Return the description of images, with the names of those that could not be decoded.

    Args:
        images: The result of :func:`hf_vbp.load_images`, or any iterable of batches.
    """
    skipped = [bad.name for bad in getattr(images, "bad_images", ())]
    described = dict(getattr(images, "provenance", UNNAMED))
    return {**described, "skipped": len(skipped), "skipped_names": skipped[:20]} if skipped else described

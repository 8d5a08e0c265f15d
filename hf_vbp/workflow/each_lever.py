"""What each lever of a pruned model does alone: narrower MLPs, and merged tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from hf_vbp.adapters.registry import find_sites
from hf_vbp.costs.counts import describe_cost
from hf_vbp.modeling.modeling_hf_vbp import merged_tokens
from hf_vbp.modeling.shared_copy import copy_sharing_tensors
from hf_vbp.results.levers import ROWS
from hf_vbp.token_merging.merge_tokens import merge_tokens


def models_of_each_lever(dense: nn.Module, pruned: nn.Module) -> dict[str, nn.Module]:
    """Return two models that use one lever of a pruned model each; empty where it does not use both.

    Args:
        dense: The model before pruning.
        pruned: The model after pruning.

    Returns:
        ``mlp``, the pruned model without merging, and ``tokens``, the dense model that merges as many tokens as the
        pruned one. They share all weights with the given models.
    """
    merged = merged_tokens(pruned)
    narrower = [[site.intermediate_size for site in find_sites(model)] for model in (dense, pruned)]
    if not any(merged) or any(merged_tokens(dense)) or narrower[0] == narrower[1]:
        return {}
    found: dict[str, nn.Module] = {"mlp": copy_sharing_tensors(pruned), "tokens": copy_sharing_tensors(dense)}
    merge_tokens(found["mlp"], 0)
    merge_tokens(found["tokens"], merged)
    return found


def with_levers(
    results: dict[str, Any],
    models: Mapping[str, nn.Module],
    inputs: Mapping[str, Any] | None,
    *,
    evaluations: Mapping[str, Mapping[str, Any]] | None = None,
    latency: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return the results with figures of each lever in ``levers``; unchanged where no model uses one lever.

    Args:
        results: The results so far, with ``cost``.
        models: Result of :func:`models_of_each_lever`.
        inputs: The batch whose MACs are counted, as for the dense model.
        evaluations: Figures of each model and of ``dense`` and ``pruned``, as in ``evaluation``.
        latency: Rows of each model and of ``dense`` and ``pruned``, as in ``latency``.
    """
    if not models:
        return results
    known = {row["model"]: dict(row) for row in results.get("levers", [])}
    for name, row in ROWS.items():
        if row not in known:
            cost = results["cost"].get(name) or describe_cost(models[name], inputs, results["cost"].get("part", ""))
            known[row] = {"model": row, "macs": cost["macs"], "bytes": cost["bytes"]}
        evaluation = (evaluations or {}).get(name, {})
        known[row] |= {key: evaluation[key] for key in ("top1", "top1_interval") if evaluation.get(key) is not None}
        times = [
            {key: one[key] for key in ("batch", "median_ms", "speedup", "speedup_interval") if key in one}
            for one in latency
            if one["model"] == name
        ]
        known[row] |= {"latency": times} if times else {}
    return {**results, "levers": list(known.values())}

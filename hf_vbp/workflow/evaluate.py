"""Evaluate a checkpoint, alone or against the model it was pruned from."""

from dataclasses import replace
from typing import Any

from hf_vbp.workflow.loading import Loading
from hf_vbp.workflow.requests import DataRequest, Reporter


def run_evaluate(
    model: str,
    data: DataRequest,
    reporter: Reporter,
    *,
    base: str | None = None,
    base_revision: str | None = None,
    loading: Loading | None = None,
) -> dict[str, Any]:
    """Evaluate a checkpoint on labelled images.

    Args:
        model: Hub id, folder or ``sample``.
        data: The images.
        reporter: Receives progress updates.
        base: The model to compare with on the same images (agreement, KL, retention).
        base_revision: Revision of the base model.
        loading: How the model is loaded; the base model likewise, at its own revision.

    Returns:
        ``{"model": {...}, "base": {...}, "data": {...}}``, the figures as in ``vbp_results.json``.
    """
    from hf_vbp.evaluation.models import evaluate_models

    loading = loading or Loading()
    loaded = loading.load(model)
    models = {"model": loaded.model}
    if base is not None:
        models = {"base": replace(loading, revision=base_revision).load(base).model, **models}
    images = data.open(loaded, "evaluation")
    reference = "base" if base is not None else None
    with reporter.stage("Evaluation", images.images) as progress:
        evaluations = evaluate_models(models, images.loader, reference=reference, progress=progress)
    measured: dict[str, Any] = {name: evaluation.to_dict() for name, evaluation in evaluations.items()}
    return {**measured, "data": images.provenance}

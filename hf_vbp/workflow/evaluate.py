"""How good a checkpoint is, alone or against the model it came from."""

from typing import Any

from hf_vbp.workflow.loading import load_model
from hf_vbp.workflow.requests import DataRequest, Reporter


def run_evaluate(
    model: str,
    data: DataRequest,
    reporter: Reporter,
    *,
    base: str | None = None,
    revision: str | None = None,
    base_revision: str | None = None,
    dtype: str = "auto",
    device: str | None = None,
) -> dict[str, Any]:
    """Evaluate a checkpoint on labelled images.

    Args:
        model: Hub id, folder or ``sample``.
        data: The images.
        reporter: Who is told how it goes.
        base: The model to compare with on the same images (agreement, KL, retention).
        revision: Revision of the model.
        base_revision: Revision of the base model.
        dtype: What to load both in.
        device: Where to compute.

    Returns:
        ``{"model": {...}, "base": {...}, "data": {...}}``, the figures as in ``vbp_results.json``.
    """
    from hf_vbp.evaluation.models import evaluate_models

    loaded = load_model(model, revision=revision, dtype=dtype, device=device)
    models = {"model": loaded.model}
    if base is not None:
        models = {"base": load_model(base, revision=base_revision, dtype=dtype, device=device).model, **models}
    images = data.open(loaded, "evaluation")
    reference = "base" if base is not None else None
    with reporter.stage("Evaluation", images.images) as progress:
        evaluations = evaluate_models(models, images.loader, reference=reference, progress=progress)
    measured: dict[str, Any] = {name: evaluation.to_dict() for name, evaluation in evaluations.items()}
    return {**measured, "data": images.provenance}

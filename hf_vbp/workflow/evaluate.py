"""Evaluation of a pruning result against its dense model, and of checkpoints by name."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from hf_vbp._progress import Progress
from hf_vbp.errors import ConfigurationError
from hf_vbp.evaluation.models import check_classifier, evaluate_models
from hf_vbp.evaluation.output_error import OutputErrors
from hf_vbp.workflow.describe import describe_images
from hf_vbp.workflow.loading import Loading
from hf_vbp.workflow.pruning_result import PruningResult
from hf_vbp.workflow.requests import DataRequest, Reporter


def evaluate(
    result: PruningResult,
    data: Iterable[Mapping[str, Any]],
    *,
    dense: nn.Module | None = None,
    progress: Progress | None = None,
) -> PruningResult:
    """Evaluate the pruned and the dense model on the same images, and add the figures to the results.

    Models that are saved or pushed afterwards have the figures in ``vbp_results.json`` and in the model card.

    Args:
        result: Result of :func:`hf_vbp.prune`, of a model for image classification.
        data: Batches with ``pixel_values`` and ``labels``: the result of :func:`hf_vbp.load_images`, a
            ``DataLoader``, or any iterable of dicts. Without labels, only agreement and KL are measured.
        dense: The dense model; by default the one that was pruned. Needed after ``inplace=True``.
        progress: Receives the number of finished images and, where it is known, of all.

    Returns:
        A new result with the parts ``evaluation``, ``observed`` and ``data.evaluation``.

    Raises:
        ConfigurationError: The dense model is not known.
        UnsupportedModelError: The models do not choose one of several classes for each image.
        DataError: There are no images.
        LabelError: A label is not among the classes of the model.

    Example:
        >>> import hf_vbp
        >>> model = hf_vbp.from_pretrained(hf_vbp.sample_model_path())
        >>> images = hf_vbp.load_images("sample", model=model)
        >>> labelled = hf_vbp.load_images("sample", model=model, purpose="evaluation")
        >>> result = hf_vbp.prune(model, images, hf_vbp.VBPConfig(ratio=0.5))
        >>> result = hf_vbp.evaluate(result, labelled)
        >>> sorted(result.results["evaluation"])
        ['dense', 'pruned', 'retention']
    """
    dense = result.dense if dense is None else dense
    if dense is None:
        raise ConfigurationError(
            "The dense model was pruned in place, so it cannot be evaluated. Pass dense=, a copy from before pruning."
        )
    check_classifier(dense)
    weighted = result.plan.predicted.get("metric") == "gradient"
    metrics = [site.metric if weighted else None for site in result.statistics.sites]
    models = {"dense": dense, "pruned": result.model}
    with OutputErrors(dense, result.model, metrics) as observed:
        found = evaluate_models(models, getattr(data, "loader", data), reference="dense", progress=progress)
    measured: dict[str, Any] = {name: evaluation.to_dict() for name, evaluation in found.items()}
    before, after = (measured[name].get("top1") for name in models)
    if before and after is not None:
        measured["retention"] = after / before
    described = {**describe_images(data), "images": found["dense"].images}
    parts = {"evaluation": measured, "observed": observed.to_dict()}
    data_part = {**result.results.get("data", {}), "evaluation": described}
    return replace(result, results={**result.results, "data": data_part, **parts})


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

"""Evaluation of a pruning result against its dense model, and of checkpoints by name."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from hf_vbp._progress import Progress
from hf_vbp.errors import ConfigurationError, LabelError
from hf_vbp.evaluation.models import evaluate_models
from hf_vbp.evaluation.output_error import OutputErrors
from hf_vbp.evaluation.requests import Measures
from hf_vbp.evaluation.task import Task, example_task
from hf_vbp.inputs.batch import count_images
from hf_vbp.inputs.fit import check_first_image, first_item, read_first_item
from hf_vbp.modeling.modeling_hf_vbp import merged_tokens
from hf_vbp.workflow.describe import describe_images, with_merging
from hf_vbp.workflow.each_lever import models_of_each_lever, with_levers
from hf_vbp.workflow.evaluation_images import EvaluationRequest, check_evaluation_request, open_evaluation
from hf_vbp.workflow.loading import Loading
from hf_vbp.workflow.pruning_result import PruningResult
from hf_vbp.workflow.requests import DataRequest, Reporter


def evaluate(
    result: PruningResult,
    data: Iterable[Mapping[str, Any]],
    *,
    measures: Measures | None = None,
    dense: nn.Module | None = None,
    progress: Progress | None = None,
) -> PruningResult:
    """Evaluate the pruned and the dense model on the same images, and add the figures to the results.

    Which figures are measured depends on the kind of output (docs/evaluation.md): accuracies, agreement and KL of
    classifiers; for all others the distance between the outputs of the two models, and what ``measures`` names.
    Models that are saved or pushed afterwards have the figures in ``vbp_results.json`` and in the model card.

    Args:
        result: Result of :func:`hf_vbp.prune`.
        data: Batches that the processor of the model made, optionally with ``labels``: the result of
            :func:`hf_vbp.load_images`, a ``DataLoader``, or any iterable of dicts.
        measures: For backbones a bank of labelled images, for dual encoders class names, for annotated images metrics.
        dense: The dense model; by default the one that was pruned. Needed after ``inplace=True``.
        progress: Receives the number of finished images and, where it is known, of all.

    Returns:
        A new result with the parts ``evaluation``, ``observed`` and ``data.evaluation``. Where the pruned model merges
        tokens, without ``observed``, and with ``levers``: the figures of narrower MLPs alone and merged tokens alone.

    Raises:
        ConfigurationError: The dense model is not known, or ``measures`` do not fit the model.
        UnsupportedModelError: The kind of output is not known, and no metric is given.
        DataError: There are no images.
        LabelError: A label is not among the classes of the model, or the model has nothing to compare labels with.

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
    measures = measures or Measures()
    check_evaluation(dense, data, measures)
    weighted = result.plan.predicted.get("metric") == "gradient"
    metrics = [site.metric if weighted else None for site in result.statistics.sites]
    each = models_of_each_lever(dense, result.model)
    models = {"dense": dense, "pruned": result.model, **each}
    # The MLPs of a model that merges tokens have other tokens.
    merges = merged_tokens(result.model) != merged_tokens(dense)
    observed = None if merges else OutputErrors(dense, result.model, metrics)
    loader = getattr(data, "loader", data)
    found = evaluate_models(models, loader, measures=measures, output_errors=observed, progress=progress)
    figures = {name: evaluation.to_dict() for name, evaluation in found.items()}
    measured: dict[str, Any] = {name: figures[name] for name in ("dense", "pruned")}
    name_classes(measured, result.model)
    before, after = (measured[name].get("top1") for name in ("dense", "pruned"))
    if before and after is not None:
        measured["retention"] = after / before
    described = {"evaluation": {**describe_images(data), "images": found["dense"].images}}
    if measures.bank is not None:
        number = found["dense"].knn["bank_images"] if found["dense"].knn else None
        described["bank"] = {**describe_images(measures.bank), **({} if number is None else {"images": number})}
    results = with_merging(result.results, result.model, result.inputs)
    results = with_levers(results, each, result.inputs, evaluations=figures)
    parts = {"evaluation": measured, **({} if observed is None else {"observed": observed.to_dict()})}
    data_part = {**results.get("data", {}), **described}
    return replace(result, results={**results, "data": data_part, **parts})


def name_classes(measured: Mapping[str, Any], model: nn.Module) -> None:
    """Add the names of the classes to their figures, where the config of the model has them.

    Args:
        measured: Figures by model, which are changed.
        model: A model with these classes.
    """
    names = {str(number): str(name) for number, name in (getattr(model.config, "id2label", None) or {}).items()}
    for row in measured.values():
        for number, figures in row.get("classes", {}).items():
            if number in names:
                figures["label"] = names[number]


def check_evaluation(
    model: nn.Module, data: Any, measures: Measures, *, task: Task | None = None, compared: bool = True
) -> Task | None:
    """Refuse an evaluation that is not possible, before any work, and return what the output of the model is.

    Args:
        model: The dense model; without ``task`` it runs on one made image.
        data: The evaluation images; their first item is read where that does not use it up.
        measures: What is measured in addition.
        task: What the output is, where it is known.
        compared: Whether the model is compared with another one.

    Raises:
        UnsupportedModelError: The kind of output is not known, or nothing could be measured.
        ConfigurationError: ``measures`` do not fit the model.
        LabelError: The labels have another form than the output needs, or nothing is compared with them, or the bank
            has none.
        DataError: The model cannot take the images of the bank.
    """
    task = example_task(model) if task is None else task
    measures.check_model(model, task, compared=compared)
    if task is not None and measures.bank is not None:
        _check_bank(model, measures.bank, task)
    item = first_item(data)
    if task is not None and isinstance(item, Mapping) and item.get("labels") is not None:
        measures.check_labels(item["labels"], task, count_images(item, model))
    return task


def with_first_batch(
    measures: Measures, model: nn.Module, eval_data: Any, *, data: Any, task: Task | None
) -> Measures:
    """Check the first evaluation batch of an object that can be iterated again, right before the calibration pass.

    Other objects were checked by :func:`check_evaluation`. Reading this one may take long, so it is done last.

    Args:
        measures: What is measured.
        model: The dense model.
        eval_data: The evaluation images.
        data: The calibration images, which are a bank of neighbors where both are labelled.
        task: What the output of the model is.

    Returns:
        The measures, with a bank where the batch has labels and the model needs one.

    Raises:
        ConfigurationError: As for :func:`check_evaluation`.
        LabelError: As for :func:`check_evaluation`.
        DataError: The model cannot take the first image.
    """
    item = read_first_item(eval_data)
    if item is None:
        return measures
    measures = with_labelled_bank(measures, task, data, [item])
    check_evaluation(model, [item], measures, task=task)
    check_first_image(model, [item])
    return measures


def _check_bank(model: nn.Module, bank: Any, task: Task) -> None:
    """Refuse a bank without labels or of other images, where its first item can be read without using it up."""
    item = first_item(bank)
    if isinstance(item, Mapping):
        if item.get("labels") is None:
            raise LabelError("The bank of neighbors has no labels: pass labelled images, as the evaluation images.")
        task.check_labels(item["labels"], count_images(item, model))
    check_first_image(model, bank)


def with_labelled_bank(measures: Measures, task: Task | None, data: Any, eval_data: Any) -> Measures:
    """Return the measures with the calibration images as a bank, where they and the evaluation images are labelled.

    Args:
        measures: What the user requested; a bank or class names of his are kept.
        task: What the output of the model is; a bank is added for backbones only.
        data: The calibration images.
        eval_data: The evaluation images.
    """
    wanted = task is not None and task.labels == "features" and measures.bank is None and measures.zero_shot is None
    if wanted and _are_labelled(eval_data) and _are_labelled(data):
        return replace(measures, bank=data)
    return measures


def _are_labelled(data: Any) -> bool:
    known = getattr(data, "labelled", None)
    item = first_item(data) if known is None else None
    return bool(known) or (isinstance(item, Mapping) and item.get("labels") is not None)


def run_evaluate(
    model: str,
    data: DataRequest,
    reporter: Reporter,
    *,
    base: str | None = None,
    base_revision: str | None = None,
    bank: DataRequest | None = None,
    neighbors: int | None = None,
    loading: Loading | None = None,
) -> dict[str, Any]:
    """Evaluate a checkpoint on images, with labels where it has classes.

    Args:
        model: Hub id, folder or ``sample``.
        data: The images.
        reporter: Receives progress updates.
        base: The model to compare with on the same images (agreement, KL, retention, distances of outputs).
        base_revision: Revision of the base model.
        bank: For backbones: labelled images among which neighbors are sought.
        neighbors: Number of neighbors that vote; None for the default.
        loading: How the model is loaded; the base model likewise, at its own revision.

    Returns:
        ``{"model": {...}, "base": {...}, "data": {...}}``, the figures as in ``vbp_results.json``; with a bank also
        ``"bank"``, its description.
    """
    loading = loading or Loading()
    loaded = loading.load(model)
    request = EvaluationRequest(data, bank=bank, neighbors=neighbors)
    task = check_evaluation_request(request, loaded, compared=base is not None)
    models = {"model": loaded.model}
    if base is not None:
        models = {"base": replace(loading, revision=base_revision).load(base).model, **models}
    images, measures = open_evaluation(request, loaded, task, reporter)
    reference = "base" if base is not None else None
    with reporter.stage("Evaluation", images.images) as progress:
        evaluations = evaluate_models(models, images.loader, reference=reference, measures=measures, progress=progress)
    measured: dict[str, Any] = {name: evaluation.to_dict() for name, evaluation in evaluations.items()}
    name_classes(measured, loaded.model)
    described = {} if measures.bank is None else {"bank": describe_images(measures.bank)}
    return {**measured, "data": images.provenance, **described}

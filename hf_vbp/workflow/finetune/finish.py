"""The end of a run, which ``--resume`` can repeat: keep the trained model, evaluate it, write the checkpoint."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hf_vbp.checkpoint.unverified import (
    check_unverified,
    discard_unverified,
    keep_unverified,
    named_on_failure,
    read_unverified,
    unverified_path,
)
from hf_vbp.errors import CheckpointError, ConfigurationError
from hf_vbp.files.layout import PLAN, RECIPE, RESULTS
from hf_vbp.files.text import read_small_text
from hf_vbp.results.finetuning import with_finetuning
from hf_vbp.results.record import to_json
from hf_vbp.workflow.finetune.fields import Tree, read_yaml
from hf_vbp.workflow.finetune.recipe import Recipe
from hf_vbp.workflow.finetune.start import Start, TeacherChoice, choose_teacher
from hf_vbp.workflow.finetune.yaml_text import parse_yaml
from hf_vbp.workflow.loading import LoadedModel, load_model
from hf_vbp.workflow.requests import Reporter, with_note

# Fields that change neither the trained weights nor the figures: they may differ when a run is resumed to save it.
_FREE = ("output", "data.evaluation.batch_size", "data.evaluation.num_workers", "training.hub_token")
_FREE_PREFIXES = ("training.dataloader_", "training.report_to", "training.per_device_eval", "training.use_cpu")


@dataclass(frozen=True)
class Trained:
    """A trained model with the inputs of its evaluation and its checkpoint.

    Attributes:
        model: The trained model in the dtype of its checkpoint, in eval mode.
        start: The start of the run.
        dense: The dense model, the reference of agreement and KL; None where it is not known.
        evaluation: The images to evaluate on, None for no evaluation.
        results: The results so far: everything except the figures of the trained model.
    """

    model: Any
    start: Start
    dense: LoadedModel | None
    evaluation: Any
    results: dict[str, Any]


def check_kept(recipe: Recipe, *, resume: bool, overwrite: bool, leads: bool) -> bool:
    """Return whether the run is to be finished from the model that an earlier run left unverified.

    Args:
        recipe: The recipe.
        resume: Whether the run continues an earlier one.
        overwrite: Whether an unverified model of an earlier run is removed.
        leads: Whether this process removes it.

    Raises:
        CheckpointError: Such a model exists, and neither ``resume`` nor ``overwrite`` is set; or the folder holds
            something else.
        ConfigurationError: The unverified model was trained with another recipe.
    """
    path = unverified_path(recipe.output)
    check_unverified(recipe.output)
    if read_unverified(recipe.output) is None:
        return False
    if resume:
        _check_same(recipe, path)
        return True
    if not overwrite:
        raise CheckpointError(
            f"{path} holds the trained model of an earlier run whose checks did not pass; save it with --resume, or "
            "start over with --overwrite."
        )
    if leads:
        discard_unverified(recipe.output)
    return False


def _check_same(recipe: Recipe, path: Path) -> None:
    before, now = _flat(read_yaml(path / RECIPE)), _flat(parse_yaml(recipe.to_yaml(), RECIPE))
    different = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if recipe.data.evaluation is None:
        different = [name for name in different if not name.startswith("data.evaluation")]
    different = [name for name in different if name not in _FREE and not name.startswith(_FREE_PREFIXES)]
    if different:
        raise ConfigurationError(
            f"{path} was trained with another recipe: {', '.join(different[:3])}{', ...' * (len(different) > 3)} "
            f"differ. Save it with its own recipe ({path / RECIPE}) and --resume, or start over with --overwrite."
        )


def _flat(tree: Tree, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def reopen(recipe: Recipe, reporter: Reporter, *, weight: float) -> Trained:
    """Load the model that an earlier run left unverified, with everything that its end needs.

    Args:
        recipe: The recipe of the training.
        reporter: Receives progress messages.
        weight: The weight of the labels in the loss.

    Raises:
        HfVbpError: The model, the dense model or the images cannot be loaded.
    """
    path = unverified_path(recipe.output)
    state = read_unverified(recipe.output) or {}
    reporter.say(f"Loading {path}, which is trained; only evaluation and saving are left")
    student = load_model(str(path))
    plan = path / PLAN
    base = None
    if recipe.data.evaluation is not None and recipe.prune is not None:
        base = load_model(recipe.prune.model, revision=recipe.prune.revision)
    start = Start(
        student,
        student.model.dtype,
        results=state["results"] if state["has_results"] else {},
        plan=read_small_text(plan) if plan.exists() else None,
        base=base,
    )
    if recipe.data.evaluation is None:
        return Trained(student.model, start, None, None, state["results"])
    dense = dense_model(start, choose_teacher(recipe, start, reporter, weight=weight))
    evaluation = with_note(recipe.data.evaluation.open(student, "evaluation"), reporter)
    return Trained(student.model, start, dense, evaluation, state["results"])


def dense_model(start: Start, teacher: TeacherChoice) -> LoadedModel | None:
    """Return the model that was pruned, where it was loaded."""
    return start.base if start.base is not None else teacher.loaded if teacher.is_base else None


def keep(recipe: Recipe, trained: Trained) -> None:
    """Save the trained model as ``OUTPUT.unverified``, before anything else can fail."""
    state = {"results": trained.results, "has_results": bool(trained.start.results)}
    files = _files(recipe, trained.start)
    if trained.start.results:
        files[RESULTS] = to_json(trained.results)
    try:
        keep_unverified(
            trained.model, recipe.output, processor=trained.start.student.processor, files=files, state=state
        )
    except CheckpointError as error:
        raise CheckpointError(
            f"{error} Training had finished; its checkpoints are in {recipe.folder}. Run again with --resume."
        ) from error


def finish(
    recipe: Recipe, trained: Trained, reporter: Reporter, *, overwrite: bool, device: Any, failure: Any = None
) -> dict[str, Any]:
    """Evaluate the trained model, write its verified checkpoint, and remove the unverified one.

    Args:
        recipe: The recipe.
        trained: The trained model, which :func:`keep` has saved.
        reporter: Receives progress messages.
        overwrite: Whether a checkpoint at the output is replaced.
        device: Where to evaluate.
        failure: The error of the last evaluation of the run, if any.

    Returns:
        The results.

    Raises:
        CheckpointError: The evaluation or the verification failed; names the unverified model.
    """
    advice = "Remove the cause and run again with --resume, which evaluates and saves it without training."
    with named_on_failure(unverified_path(recipe.output), advice):
        if failure is not None:
            raise failure
        after = measure(trained.dense, {"finetuned": trained.model}, trained.evaluation, reporter, device)
        results = _write(recipe, trained, _with_finetuned(trained.results, after), reporter, overwrite)
    discard_unverified(recipe.output)
    return results


def _with_finetuned(results: dict[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    if not after:
        return results
    return with_finetuning(results, results["finetuning"], evaluation={**results.get("evaluation", {}), **after})


def measure(
    dense: LoadedModel | None, model: Mapping[str, Any], images: Any, reporter: Reporter, device: Any
) -> dict[str, Any]:
    """Measure the dense model, where it is known, and one state of the student on the same images, in float32.

    Args:
        dense: The dense model.
        model: The student by its name in the results: ``pruned`` or ``finetuned``.
        images: The images; None measures nothing.
        reporter: Receives progress messages.
        device: Where to compute.
    """
    from hf_vbp.evaluation import evaluate_models

    if images is None:
        return {}
    models = {**({} if dense is None else {"dense": dense.model}), **model}
    title = "Evaluation after" if "finetuned" in model else "Evaluation before"
    with reporter.stage(title, images.images) as progress, _in_float32(models):
        found = evaluate_models(
            models,
            images.loader,
            reference=None if dense is None else "dense",
            progress=progress,
            device=device,
        )
    return {name: entry.to_dict() for name, entry in found.items()}


@contextmanager
def _in_float32(models: Mapping[str, Any]) -> Iterator[None]:
    # Half precision to float32 and back changes no weight; figures in different dtypes do not compare.
    half = {name: model.dtype for name, model in models.items() if model.dtype in (torch.float16, torch.bfloat16)}
    for name in half:
        models[name].float()
    try:
        yield
    finally:
        for name, dtype in half.items():
            models[name].to(dtype)


def _files(recipe: Recipe, start: Start) -> dict[str, Any]:
    plan = {} if start.plan is None else {PLAN: start.plan}
    return {RECIPE: recipe.to_yaml(), **plan}


def _write(
    recipe: Recipe, trained: Trained, results: dict[str, Any], reporter: Reporter, overwrite: bool
) -> dict[str, Any]:
    from hf_vbp.checkpoint.saving import save_checkpoint
    from hf_vbp.workflow.pruning_result import with_receipt

    files = _files(recipe, trained.start)
    if trained.start.results:
        files[RESULTS] = lambda receipt: to_json(with_receipt(results, receipt))
    reporter.say(f"Writing {recipe.output}, and reopening it in a fresh process")
    processor = trained.start.student.processor
    receipt = save_checkpoint(trained.model, recipe.output, processor=processor, files=files, overwrite=overwrite)
    return with_receipt(results, receipt)

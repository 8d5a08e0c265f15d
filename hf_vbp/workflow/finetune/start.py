"""Load the start of a run: the model to train, its teacher, and the records of both."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hf_vbp._progress import one_line, shown
from hf_vbp.data.class_names import name_classes
from hf_vbp.errors import CheckpointError, ConfigurationError
from hf_vbp.evaluation.models import check_classifier
from hf_vbp.files.layout import PLAN, RESULTS
from hf_vbp.files.text import read_small_text
from hf_vbp.inputs.position_embeddings import interpolate_position_embeddings
from hf_vbp.results.base_model import describe_base_model
from hf_vbp.results.record import load_results
from hf_vbp.workflow.finetune.base_folder import find_base, was_pruned
from hf_vbp.workflow.finetune.recipe import NO_TEACHER, PruneFirst, Recipe
from hf_vbp.workflow.loading import LoadedModel, load_model
from hf_vbp.workflow.requests import Reporter

_ONLY_CLASSIFIERS = (
    "`hf-vbp finetune` trains classifiers with one label per image. Train other models from Python with "
    "hf_vbp.DistillationTrainer, which follows problem_type (docs/finetuning.md)."
)


@dataclass(frozen=True)
class Start:
    """The model that a run starts from.

    Attributes:
        student: The model to train, in float32, with its processor.
        dtype: The dtype of its checkpoint, in which the result is saved.
        results: The content of its ``vbp_results.json``; empty where there is none.
        plan: The text of its ``plan.json``, ``None`` where there is none.
        base: The dense model, if it was loaded.
    """

    student: LoadedModel
    dtype: Any
    results: Mapping[str, Any]
    plan: str | None
    base: LoadedModel | None


@dataclass(frozen=True)
class TeacherChoice:
    """The teacher of a run.

    Attributes:
        loaded: The model, ``None`` for labels alone.
        described: Its identity, for the results.
        is_base: Whether it is the dense model that the student was pruned from.
    """

    loaded: LoadedModel | None
    described: dict[str, Any]
    is_base: bool = False


def open_start(recipe: Recipe, reporter: Reporter) -> Start:
    """Load the pruned checkpoint of a recipe, or prune the model of its ``prune`` section.

    Raises:
        UnsupportedModelError: The model is no classifier with one label per image.
        HfVbpError: The model cannot be loaded or pruned, or ``model_labels`` of its images are not its classes.
    """
    if recipe.prune is not None:
        start = _pruned(recipe.prune, reporter)
    else:
        reporter.say(f"Loading {recipe.model}")
        loaded = load_model(str(recipe.model), revision=recipe.revision)
        check_classifier(loaded.model, loaded.source, _ONLY_CLASSIFIERS)
        results, plan = _records(str(recipe.model), recipe.revision)
        start = _as_start(loaded, loaded.model, results, plan, base=None)
    _name_classes(recipe, start, reporter)
    return start


def _name_classes(recipe: Recipe, start: Start, reporter: Reporter) -> None:
    given = [images.model_labels for images in (recipe.data.evaluation, recipe.data.train) if images is not None]
    names = next((name for name in given if name is not None), None)
    if names is not None and name_classes(start.student.model.config, names):
        reporter.say(f"The config of the trained model names its classes ({names})")


def _as_start(
    loaded: LoadedModel, model: Any, results: Mapping[str, Any], plan: str | None, base: LoadedModel | None
) -> Start:
    dtype = next(model.parameters()).dtype
    # The 8 bits of bfloat16 lose steps of 1e-5, so the weights are always trained in float32.
    student = replace(loaded, model=model.float())
    return Start(student, dtype, results, plan, base)


def _pruned(first: PruneFirst, reporter: Reporter) -> Start:
    from hf_vbp.workflow.gather import gather
    from hf_vbp.workflow.kept_measurements import lever_warnings
    from hf_vbp.workflow.prune import check_request, prune

    reporter.say(f"Loading {first.model}")
    loaded = load_model(first.model, revision=first.revision)
    check_classifier(loaded.model, loaded.source, _ONLY_CLASSIFIERS)
    prepared = check_request(loaded.model, first.config)
    statistics = gather(prepared, loaded, first.config, reporter, data=first.data, statistics=first.statistics)
    with lever_warnings(reporter):
        result = prune(prepared, None, first.config, statistics=statistics)
    results = {**result.results, "base_model": describe_base_model(loaded.model, loaded.source)}
    return _as_start(loaded, result.model, results, result.plan.to_json(), base=loaded)


def _records(source: str, revision: str | None) -> tuple[Mapping[str, Any], str | None]:
    """Return the results and the plan of a checkpoint, where it has them."""
    folder = Path(source).expanduser()
    found = {}
    for name in (RESULTS, PLAN):
        found[name] = folder / name if folder.is_dir() else _from_hub(source, name, revision)
    results_path, plan_path = found[RESULTS], found[PLAN]
    results: Mapping[str, Any] = {}
    if results_path is not None and results_path.exists():
        results = load_results(results_path.parent)
    if plan_path is None or not plan_path.exists():
        return results, None
    try:
        text = read_small_text(plan_path)
        plan = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{plan_path} is not JSON ({one_line(error)}); restore it, or remove it.") from error
    if not isinstance(plan, dict):
        raise CheckpointError(f"{plan_path} is {shown(plan)}, not a plan; restore it, or remove it.")
    return results, text


def _from_hub(source: str, name: str, revision: str | None) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    if source == "sample":
        return None
    try:
        return Path(hf_hub_download(source, name, revision=revision))
    except (EntryNotFoundError, LocalEntryNotFoundError):
        return None
    except HfHubHTTPError as error:
        raise CheckpointError(f"{name} of {source} cannot be read: {str(error).splitlines()[0]}") from error


def choose_teacher(recipe: Recipe, start: Start, reporter: Reporter, *, weight: float) -> TeacherChoice:
    """Load the teacher of a recipe: the one it names, or the model that was pruned.

    That model is loaded from the Hub at the recorded revision. Of a folder only the name is recorded: it is
    looked up in the current folder and next to the checkpoint, and accepted only with the weights that were pruned.

    Args:
        recipe: The recipe.
        start: The model that it starts from.
        reporter: Receives the name of a teacher that the recipe does not name.
        weight: The weight of the labels; at 1 there is no teacher.

    Raises:
        ConfigurationError: The pruned model is not recorded, or its folder is not found.
        UnsupportedModelError: The teacher is no classifier with one label per image.
        LabelError: The teacher has other labels.
    """
    from hf_vbp.distillation.teacher import check_teacher

    if recipe.teacher == NO_TEACHER or weight == 1:
        return TeacherChoice(None, {"teacher": NO_TEACHER})
    choice = _named(recipe, start) if recipe.teacher is not None else _base(start, reporter)
    if choice.loaded is not None:
        check_classifier(choice.loaded.model, f"The teacher {choice.loaded.source}", _ONLY_CLASSIFIERS)
        check_teacher(start.student.model, choice.loaded.model)
        _check_processors(start.student, choice.loaded)
    return choice


def _named(recipe: Recipe, start: Start) -> TeacherChoice:
    loaded = load_model(str(recipe.teacher), revision=recipe.teacher_revision)
    return TeacherChoice(loaded, _described(loaded), is_base=was_pruned(loaded.model, start.plan))


def _base(start: Start, reporter: Reporter) -> TeacherChoice:
    if start.base is not None:
        return TeacherChoice(start.base, _described(start.base), is_base=True)
    base = start.results.get("base_model", {})
    if not base.get("id"):
        raise ConfigurationError(
            f"{start.student.source} does not record the model that it was pruned from ({RESULTS}). Name it "
            f"(--teacher ID), or train on labels alone (--teacher {NO_TEACHER})."
        )
    if base.get("source") != "sample" and (base.get("source") == "folder" or "/" not in base["id"]):
        loaded = find_base(start.student.source, base["id"], start.plan, start.dtype)
    else:
        loaded = load_model(base["id"], revision=base.get("revision"))
    reporter.say(f"The teacher is {loaded.source}, the model that was pruned")
    size = getattr(start.student.model.config, "image_size", None)
    if size is not None and size != getattr(loaded.model.config, "image_size", None):
        # It was pruned after its position embeddings were adapted to another size.
        interpolate_position_embeddings(loaded.model, size)
    return TeacherChoice(loaded, _described(loaded), is_base=True)


def _described(loaded: LoadedModel) -> dict[str, Any]:
    described = describe_base_model(loaded.model, loaded.source)
    named = {"teacher": described.get("id"), "teacher_revision": described.get("revision")}
    return {name: value for name, value in named.items() if value is not None}


def _check_processors(student: LoadedModel, teacher: LoadedModel) -> None:
    """Refuse a teacher whose image preparation differs from that of the student."""
    if student.processor is None or teacher.processor is None:
        return
    for name in ("image_mean", "image_std"):
        expected, given = (list(getattr(loaded.processor, name, None) or ()) for loaded in (student, teacher))
        if expected != given:
            raise ConfigurationError(
                f"The teacher's images are prepared with {name} {given}, the model's with {expected}, but both get "
                "the same images. Choose a teacher with the same preparation."
            )

"""``hf-vbp finetune``: recover the accuracy of a pruned model."""

import shlex
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import typer

from hf_vbp._progress import counted
from hf_vbp.cli import groups
from hf_vbp.cli.console import Reporter, percent, print_json_text, print_lines, print_table
from hf_vbp.cli.groups import IMAGES, OUTPUT, TRAINING, option, with_groups


@dataclass(frozen=True)
class TrainingImages:
    """The images to train and evaluate on, and the names of their classes."""

    panel: ClassVar[str] = IMAGES

    data: Annotated[str | None, typer.Option(help=f"Images to train on (data.train.source). {groups.DATA_HELP}")] = (
        None
    )
    eval_data: Annotated[str | None, typer.Option(help="Labelled images to evaluate on (data.evaluation.source).")] = (
        None
    )
    model_labels: Annotated[
        str | None,
        typer.Option(
            help="File of the model's class names in order of id, in place of its config's "
            "(data.train.model_labels, data.evaluation.model_labels).",
        ),
    ] = None
    label_map: Annotated[
        str | None,
        typer.Option(
            help="File that maps classes of the data set to labels or ids of the model (data.train.label_map, "
            "data.evaluation.label_map).",
        ),
    ] = None


@dataclass(frozen=True)
class TrainingOptions:
    """The fields of the training that are changed most."""

    panel: ClassVar[str] = TRAINING

    teacher: Annotated[
        str | None,
        typer.Option(help="Model to learn from, by default the one that was pruned; none for labels alone (teacher)."),
    ] = None
    epochs: Annotated[float | None, typer.Option(help="Passes over the images (training.num_train_epochs).")] = None
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate (training.learning_rate).")] = None
    batch_size: Annotated[
        int | None, typer.Option(help="Images per device (training.per_device_train_batch_size).")
    ] = None


@with_groups
def finetune(
    recipe: Annotated[
        list[str],
        typer.Argument(
            help="A pruned checkpoint (a folder or a Hub id), or a recipe (FILE.yaml); then any other fields of a "
            "recipe, such as training.max_steps=60 or data.augmentation=plain.",
            show_default=False,
        ),
    ],
    *,
    images: TrainingImages,
    training: TrainingOptions,
    output: groups.OptionalOutput = None,
    resume: Annotated[bool, option(OUTPUT, "--resume", help="Continue an earlier run, where there is one.")] = False,
    overwrite: groups.Overwrite = False,
    import_: groups.Import = None,
    json: groups.Json = False,
    quiet: groups.Quiet = False,
) -> None:
    """Fine-tune a pruned checkpoint, by default with the model it was pruned from as the teacher.

    Every field of a recipe can be given after the checkpoint as section.field=value, among them all of
    transformers.TrainingArguments (training.NAME=VALUE).
    """
    from hf_vbp.distributed import is_main_process
    from hf_vbp.results.record import to_json
    from hf_vbp.workflow.finetune.options import RecipeOptions
    from hf_vbp.workflow.finetune.recipe import load_recipe
    from hf_vbp.workflow.finetune.run import run_finetune
    from hf_vbp.workflow.loading import without_progress_bars

    given = vars(images) | vars(training)
    options = RecipeOptions(evaluation=given.pop("eval_data"), output=output, **given)
    read = load_recipe(recipe, options)
    # The settings of the run identify the process; without them a process on a CPU assumes that it is the only one.
    silent = quiet or read.arguments().process_index != 0
    # Loggers of training.report_to may print (Trackio does); standard output is for the results.
    with without_progress_bars(), redirect_stdout(sys.stderr):
        results = run_finetune(
            read,
            Reporter(quiet=silent),
            resume=resume,
            overwrite=overwrite,
            command=shlex.join(["hf-vbp", "finetune", *recipe, *options.words]),
        )
    if not is_main_process():
        return
    if json:
        print_json_text(to_json(results))
    else:
        show(results, read.output)


def show(results: dict[str, Any], output: str) -> None:
    """Print the closing table: accuracy before pruning, after it and after fine-tuning, and how to load the result."""
    from hf_vbp.workflow.how_to_load import how_to_load

    run, evaluation = results["finetuning"], results.get("evaluation", {})
    states = (("before pruning", "dense"), ("after pruning", "pruned"), ("after fine-tuning", "finetuned"))
    base = evaluation.get("dense", {}).get("top1")
    rows = []
    for label, name in states:
        figures = evaluation.get(name)
        if figures:
            kept = figures["top1"] / base if base else None
            agreement = percent(figures.get("agreement"))
            rows.append((label, percent(figures["top1"]), percent(figures.get("top5")), agreement, percent(kept)))
    images = evaluation.get("finetuned", {}).get("images")
    measured = f"evaluated on {counted(images or 0, 'image')}, the same in each row"
    caption = measured if images else "not evaluated (no --eval-data)"
    steps = f"{counted(run['steps'], 'step')} of {counted(run['images_per_step'], 'image')}"
    title = f"{counted(run['epochs'], 'epoch')}, {steps} in {run['seconds']:.0f} s"
    print_table(title, ("", "top-1", "top-5", "agreement", "kept"), rows, caption=caption)
    print_lines(how_to_load(results, output))

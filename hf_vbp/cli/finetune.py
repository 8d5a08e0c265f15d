"""``hf-vbp finetune``: give a pruned model its accuracy back."""

import shlex
import sys
from contextlib import redirect_stdout
from typing import Annotated, Any

import typer

from hf_vbp.cli import groups
from hf_vbp.cli.console import Reporter, percent, standard_output, table


def finetune(
    recipe: Annotated[
        list[str],
        typer.Argument(help="A recipe (FILE.yaml), and fields that go over it: training.learning_rate=1e-4."),
    ],
    resume: Annotated[bool, typer.Option("--resume", help="Continue an earlier run, where there is one.")] = False,
    overwrite: groups.Overwrite = False,
    json: groups.Json = False,
    quiet: groups.Quiet = False,
) -> None:
    """Fine-tune a pruned checkpoint as a recipe says, by default against the model it came from."""
    from hf_vbp.distributed import is_main_process
    from hf_vbp.results.record import to_json
    from hf_vbp.workflow.finetune.recipe import load_recipe
    from hf_vbp.workflow.finetune.run import run_finetune
    from hf_vbp.workflow.loading import without_progress_bars

    read = load_recipe(recipe)
    # The settings of the run say which processes there are; without them a CPU takes itself for the only one.
    silent = quiet or read.arguments().process_index != 0
    # What training.report_to logs to may print (Trackio does), and standard output is for the results alone.
    with without_progress_bars(), redirect_stdout(sys.stderr):
        results = run_finetune(
            read,
            Reporter(quiet=silent),
            resume=resume,
            overwrite=overwrite,
            command=shlex.join(["hf-vbp", "finetune", *recipe]),
        )
    if not is_main_process():
        return
    if json:
        sys.stdout.write(to_json(results))
    else:
        show(results, read.output)


def show(results: dict[str, Any], output: str) -> None:
    """Print the closing table: accuracy before pruning, after it and after fine-tuning, and where it lies."""
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
    caption = f"evaluated on {images} images, the same in each row" if images else "not evaluated (no data.evaluation)"
    steps = f"{run['steps']} steps of {run['images_per_step']} images"
    title = f"{run['epochs']:g} epochs, {steps} in {run['seconds']:.0f} s"
    console = standard_output()
    console.print(table(title, ("", "top-1", "top-5", "agreement", "kept"), rows, caption=caption))
    console.print(f"The checkpoint lies in {output}. Load it with", markup=False)
    console.print(f"  import hf_vbp; AutoModelForImageClassification.from_pretrained({output!r})", markup=False)

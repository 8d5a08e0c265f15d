"""The folders of a fine-tuning run: checked before any work."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hf_vbp.checkpoint.inputs import Source, check_apart, local_path
from hf_vbp.distillation.arguments import DistillationArguments
from hf_vbp.distillation.checkpoints import training_checkpoints
from hf_vbp.errors import CheckpointError, ConfigurationError
from hf_vbp.workflow.finetune.recipe import Recipe
from hf_vbp.workflow.outputs import output_folder


@contextmanager
def finetune_output(recipe: Recipe, args: DistillationArguments, *, overwrite: bool) -> Iterator[None]:
    """Check the output and the folder of a run, and hold the output until the block ends.

    Raises:
        CheckpointError: The output cannot or must not be written, or the folder of the run cannot be.
        ConfigurationError: The folder of the run is in the output.
    """
    inputs = recipe_inputs(recipe)
    run = Path(os.path.realpath(args.output_dir))
    output = Path(os.path.realpath(Path(recipe.output).expanduser()))
    if output in (run, *run.parents):
        raise ConfigurationError(
            f"training.output_dir ({args.output_dir}) is in the output of the recipe ({recipe.output}), which is "
            "replaced as a whole at the end. Choose a folder outside of it."
        )
    _check_run_folder(run)
    if overwrite:
        # The checkpoints of an earlier run are then removed.
        for folder in training_checkpoints(run):
            check_apart(folder, inputs)
    with output_folder(Path(recipe.output), overwrite, inputs, leads=args.process_index == 0):
        yield


def recipe_inputs(recipe: Recipe) -> dict[str, Source]:
    """Return the inputs of a recipe by their description."""
    prune, data = recipe.prune, recipe.data
    inputs: dict[str, Source] = {
        "the model": recipe.model,
        "the teacher": recipe.teacher,
        "the folder of the training images": data.train.source,
        "the folder of the evaluation images": None if data.evaluation is None else data.evaluation.source,
    }
    if prune is not None:
        inputs |= {
            "the model to prune": prune.model,
            "the statistics": prune.statistics,
            "the folder of the calibration images": None if prune.data is None else prune.data.source,
        }
    return inputs | {f"the recipe {file}": file for file in recipe.files if local_path(file) is not None}


def _check_run_folder(folder: Path) -> None:
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise CheckpointError(
            f"The checkpoints of the run cannot be written to {folder}: {place} is not a folder that can be written "
            "to. Set training.output_dir."
        )

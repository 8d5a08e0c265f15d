"""Save a pruning result, or any model, as a verified checkpoint."""

import os
from collections.abc import Mapping
from typing import Any

from hf_vbp.checkpoint.receipt import Receipt
from hf_vbp.checkpoint.saving import save_checkpoint as write_checkpoint
from hf_vbp.workflow.pruning_result import PruningResult


def save_checkpoint(
    result: PruningResult | Any,
    directory: str | os.PathLike[str],
    *,
    processor: Any = None,
    verify: bool = True,
    overwrite: bool = False,
    inputs: Mapping[str, Any] | None = None,
) -> Receipt:
    """Save a model and verify that the checkpoint reloads with the same outputs.

    For a pruning result, also writes ``plan.json`` and ``vbp_results.json``, which holds the receipt. Everything is
    written to a hidden folder that is moved at the end, so an interruption leaves no incomplete checkpoint.

    Args:
        result: Result of :func:`hf_vbp.prune`, or a transformers model.
        directory: A new or an empty folder.
        processor: The image processor, saved next to the model.
        verify: Whether to reopen the checkpoint in a fresh process by each way of loading that applies.
        overwrite: Whether a checkpoint of hf_vbp at ``directory`` may be replaced. Its README.md is kept if you
            wrote or changed it. Any other file that hf_vbp did not write, or that was changed since, is refused.
        inputs: A batch for the verification of a model; by default one made from the configs. A pruning result has its
            own.

    Returns:
        The receipt: the ways in which the checkpoint loads, and the difference of its outputs from those in memory.

    Raises:
        CheckpointError: The folder is taken, is the one that the model was loaded from, or is being written by
            another process, the disk is full, or the checkpoint does not reload as the model.
        UnsupportedModelError: ``result`` is not a plain transformers model.

    Example:
        >>> import hf_vbp, tempfile
        >>> model = hf_vbp.from_pretrained(hf_vbp.sample_model_path())
        >>> receipt = hf_vbp.save_checkpoint(model, tempfile.mkdtemp())
        >>> [entry.way for entry in receipt.entries]
        ['import', 'stock']
    """
    options: dict[str, Any] = {"processor": processor, "verify": verify, "overwrite": overwrite}
    if isinstance(result, PruningResult):
        return result.save_pretrained(directory, **options)
    return write_checkpoint(result, directory, inputs=inputs, **options)

"""From a pruning result, or any model, to a checkpoint that is proved to load."""

import os
from typing import Any

from hf_vbp.checkpoint.layout import PLAN, RESULTS
from hf_vbp.checkpoint.receipt import Receipt
from hf_vbp.checkpoint.saving import Content
from hf_vbp.checkpoint.saving import save_checkpoint as write_checkpoint
from hf_vbp.results.record import to_json
from hf_vbp.workflow.pruning_result import PruningResult


def save_checkpoint(
    result: PruningResult | Any,
    directory: str | os.PathLike[str],
    *,
    processor: Any = None,
    verify: bool = True,
    overwrite: bool = False,
) -> Receipt:
    """Save a pruned model so that anybody can load it, and prove that they can.

    Beside weights, config and processor lie ``plan.json`` and ``vbp_results.json``, which holds the receipt.
    Everything is written beside and renamed at the end, so an interruption leaves no half checkpoint.

    Args:
        result: What :func:`hf_vbp.prune` returned, or a transformers model.
        directory: A new or an empty folder.
        processor: The image processor, saved beside the model.
        verify: Whether to reopen the checkpoint in a fresh process by each way that applies.
        overwrite: Whether a checkpoint that lies at ``directory`` may be replaced.

    Returns:
        The receipt: how the checkpoint loads, and how far its outputs are from those in memory.

    Raises:
        CheckpointError: The folder is taken, the disk is full, or the checkpoint did not prove right.
        UnsupportedModelError: What was given is not a plain transformers model.

    Example:
        >>> import hf_vbp, tempfile
        >>> model = hf_vbp.from_pretrained(hf_vbp.sample_model_path())
        >>> receipt = hf_vbp.save_checkpoint(model, tempfile.mkdtemp())
        >>> [entry.way for entry in receipt.entries]
        ['import', 'stock']
    """
    options: dict[str, Any] = {"processor": processor, "verify": verify, "overwrite": overwrite}
    if not isinstance(result, PruningResult):
        return write_checkpoint(result, directory, **options)
    files: dict[str, Content] = {
        PLAN: result.plan.to_json(),
        RESULTS: lambda receipt: to_json(with_receipt(result.results, receipt)),
    }
    return write_checkpoint(result.model, directory, files=files, **options)


def with_receipt(results: dict[str, Any], receipt: Receipt) -> dict[str, Any]:
    """Return the results with what the receipt proved; without the key where nothing was proved."""
    return {**results, "receipt": receipt.to_list()} if receipt.entries else dict(results)

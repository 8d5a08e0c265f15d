"""Save a model with its files in one step, and verify the checkpoint."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hf_vbp.checkpoint.atomic_folder import reserved, staged
from hf_vbp.checkpoint.receipt import Receipt, take_receipt
from hf_vbp.checkpoint.transformers_patch import patched
from hf_vbp.errors import ConfigurationError, UnsupportedModelError
from hf_vbp.files.layout import CONFIG, MANIFEST, MODELING_FILE
from hf_vbp.modeling.config_record import check_recorded

Content = str | bytes | Callable[[Receipt], str | bytes]


def save_checkpoint(
    model: Any,
    directory: str | os.PathLike[str],
    *,
    processor: Any = None,
    files: Mapping[str, Content] | None = None,
    verify: bool = True,
    overwrite: bool = False,
    inputs: Mapping[str, Any] | None = None,
) -> Receipt:
    """Save a model, pruned or not, and verify that the checkpoint reloads with the same outputs.

    Everything is written to a hidden folder and moved to ``directory`` at the end: an interruption, a full disk or
    a failed verification does not modify ``directory``. ``vbp_manifest.json`` lists the files that were written.
    The result is a stock checkpoint, see docs/checkpoints.md.

    Args:
        model: A transformers model. Its config records its widths, as pruning does (:func:`write_widths`).
        directory: A new or an empty folder.
        processor: The image processor, saved next to the model.
        files: Further files by name, for instance ``plan.json``: text, bytes, or a function that makes either
            from the receipt.
        verify: Whether to reopen the checkpoint in a fresh process by each way that applies (some 10 s) and
            compare its outputs with the model's.
        overwrite: Whether a checkpoint of hf_vbp at ``directory`` may be replaced. Its README.md is kept if you
            wrote or changed it. Any other file that hf_vbp did not write, or that was changed since, is refused.
        inputs: A batch for the verification; by default one made from the configs.

    Returns:
        The receipt: the ways in which the checkpoint loads, and the difference of its outputs from those in memory.

    Raises:
        CheckpointError: The folder is taken, is the one that ``model`` was loaded from, or is being written by
            another process, the disk is full, or the verification failed.
        UnsupportedModelError: ``model`` is not a plain transformers model.
        ConfigurationError: ``files`` holds a name that is a path or belongs to the checkpoint itself.

    Example:
        >>> import hf_vbp, tempfile
        >>> model = hf_vbp.from_pretrained(hf_vbp.sample_model_path())
        >>> receipt = hf_vbp.save_checkpoint(model, tempfile.mkdtemp())
        >>> [entry.max_abs_difference for entry in receipt.entries]
        [0.0, 0.0]
    """
    _check_model(model)
    contents = dict(files or {})
    _check_names(contents)
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    # Its weights may still be read from there: from_pretrained maps the file into memory.
    sources = {"the folder that the model was loaded from, an input": getattr(model, "name_or_path", None)}
    with (
        reserved(directory, overwrite, required_bytes=size, inputs=sources) as folder,
        staged(folder, overwrite) as staging,
    ):
        with patched():
            model.save_pretrained(staging)
        if processor is not None:
            processor.save_pretrained(staging)
        entries = take_receipt(model, staging, inputs=inputs).entries if verify else ()
        receipt = Receipt(Path(directory), entries)
        for name, content in contents.items():
            _write(staging / name, content(receipt) if callable(content) else content)
    return receipt


def _check_model(model: Any) -> None:
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise UnsupportedModelError(
            f"Expected a transformers model, got {type(model).__name__}. Pass the model itself: result.model, "
            "accelerator.unwrap_model(model), compiled._orig_mod, or peft_model.merge_and_unload()."
        )
    devices = {parameter.device.type for parameter in model.parameters()}
    if "meta" in devices or getattr(model, "_hf_peft_config_loaded", False):
        raise UnsupportedModelError(
            "Some weights are not in memory (meta or offloaded), or the model carries PEFT adapters. Load it "
            "without offloading, merge the adapters, and save again."
        )
    check_recorded(model)


def _check_names(contents: Mapping[str, Content]) -> None:
    for name in contents:
        taken = name in {CONFIG, MODELING_FILE, MANIFEST} or name.endswith((".safetensors", ".safetensors.index.json"))
        if not name or Path(name).name != name or name.startswith(".") or taken:
            raise ConfigurationError(f"A file {name!r} cannot be added to a checkpoint: expected a free, plain name.")


def _write(path: Path, content: str | bytes) -> None:
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)

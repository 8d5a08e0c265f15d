"""Undo changes of a model that fail half-way."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hf_vbp._progress import one_line
from hf_vbp.errors import OutputError
from hf_vbp.modeling.modeling_hf_vbp import config_tree

LARGE_BYTES = 2**28
"""Replaced tensors of more bytes than this are kept outside the memory of their device."""


class Replaced:
    """Tensors that a block takes out of a model; large ones are kept outside the memory of their device.

    Args:
        folder: An empty folder for those of the CPU.
        size: Bytes of all of them.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self._folder, self._large = folder, size > LARGE_BYTES
        self._kept: list[tuple[torch.Tensor, torch.Size, torch.Tensor | Path]] = []

    def release(self, old: nn.Module, new: nn.Module) -> None:
        """Keep the tensors of a module, apart from those that the new one shares, and free their memory.

        Raises:
            OutputError: They cannot be written to the folder.
        """
        shared = {tensor.untyped_storage().data_ptr() for tensor in _tensors(new)}
        for tensor in _tensors(old) if self._large else []:
            if tensor.untyped_storage().data_ptr() not in shared:
                kept = tensor.cpu() if tensor.device.type != "cpu" else self._write(tensor)
                self._kept.append((tensor, tensor.shape, kept))
                tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)

    def restore(self) -> None:
        """Give the tensors their values back."""
        for tensor, shape, kept in self._kept:
            if isinstance(kept, Path):
                kept = torch.from_numpy(np.fromfile(kept, dtype=np.uint8)).view(tensor.dtype).view(shape)
            tensor.data = kept.to(tensor.device)

    def _write(self, tensor: torch.Tensor) -> Path:
        path = self._folder / str(len(self._kept))
        try:
            tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tofile(path)
        except OSError as error:
            raise OutputError(
                f"The weights that in-place pruning replaces cannot be kept in {self._folder} ({one_line(error)}). "
                "Set TMPDIR to a folder with space, or prune a copy (inplace=False)."
            ) from error
        return path


@contextmanager
def restored_on_failure(model: Any, replaced_bytes: int = 0) -> Iterator[Replaced]:
    """Undo what a ``with`` block changed in a model, where the block raises an exception or is interrupted.

    Modules, parameters, buffers, hooks and configs are restored as the same objects. A block may replace tensors, but
    not write to them. The replaced ones are kept until the end of the block.

    Args:
        model: A transformers model.
        replaced_bytes: Bytes of the tensors that the block replaces.

    Yields:
        Frees the memory of replaced tensors, if they are large.
    """
    configs = [vars(module).get("config") for module in model.modules()]
    owners = [*model.modules(), *(one for config in configs if config is not None for one in config_tree(config))]
    before = [(owner, dict(vars(owner))) for owner in {id(owner): owner for owner in owners}.values()]
    # Handles of hooks refer to the dicts of a module, so these are restored in place.
    dicts = [(value, dict(value)) for _, own in before for value in own.values() if isinstance(value, dict)]
    with tempfile.TemporaryDirectory(prefix="hf-vbp-replaced-", ignore_cleanup_errors=True) as folder:
        replaced = Replaced(Path(folder), replaced_bytes)
        try:
            yield replaced
        except BaseException:
            for owner, own in before:
                vars(owner).clear()
                vars(owner).update(own)
            for value, content in dicts:
                value.clear()
                value.update(content)
            replaced.restore()
            raise


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]

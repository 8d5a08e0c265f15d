"""Run the entries of the zoo, and watch their MLPs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch

from .family import Family
from .zoo import FAMILIES

BY_NAME: Mapping[str, Family] = {family.name: family for family in FAMILIES}


@cache
def model_of(name: str) -> Any:
    """The model of an entry, built once in a process. A test that changes it must undo the change."""
    family = BY_NAME[name]
    if family.needs:
        pytest.importorskip(family.needs)
    return family.build()


def run(family: Family, model: Any, n: int, start: int) -> list[torch.Tensor]:
    """The outputs of ``n`` images from image ``start`` on."""
    with torch.no_grad():
        return family.outputs(model(**family.batch(n, 0, start)))


def rows_of(family: Family, n: int, start: int) -> list[int]:
    """How many rows of the output each image has: one, where the output is not packed."""
    return family.lengths(family.batch(n, 0, start)) if family.lengths else [1] * n


def width_out(module: Any) -> int:
    """Neurons that a projection gives."""
    return module.nf if type(module).__name__ == "Conv1D" else module.weight.shape[0]


def width_in(module: Any) -> int:
    """Neurons that a projection takes."""
    return module.weight.shape[0] if type(module).__name__ == "Conv1D" else module.weight.shape[1]


def neurons_last(tensor: torch.Tensor, kind: str) -> torch.Tensor:
    """A tensor at a projection of that kind, with the neurons in the last axis."""
    return tensor.movedim(1, -1) if kind == "Conv2d" else tensor


@contextmanager
def hooked(*handles: Any) -> Iterator[None]:
    """Remove hooks at the end."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

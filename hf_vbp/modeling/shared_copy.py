"""Copies of models that share their tensors."""

import copy
from collections.abc import Mapping
from typing import TypeVar

from torch import nn

ModelT = TypeVar("ModelT", bound=nn.Module)


def copy_sharing_tensors(model: ModelT, replaced: Mapping[int, object] | None = None) -> ModelT:
    """Return a copy of the modules of a model, which share all parameters and buffers with it.

    Args:
        model: Any model; not changed.
        replaced: What the copy holds in place of other objects of the model, by their ``id``.
    """
    shared: dict[int, object] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, {**shared, **(replaced or {})})

"""Undo changes of a model that fail half-way."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hf_vbp.modeling.modeling_hf_vbp import config_tree


@contextmanager
def restored_on_failure(model: Any) -> Iterator[None]:
    """Undo what a ``with`` block changed in a model, where the block raises an exception or is interrupted.

    Modules, parameters, buffers, hooks and configs are restored as the same objects. No tensor is copied, so a block
    may replace tensors, but not write to them; the replaced ones are kept in memory until the end of the block.

    Args:
        model: A transformers model.
    """
    configs = [vars(module).get("config") for module in model.modules()]
    owners = [*model.modules(), *(one for config in configs if config is not None for one in config_tree(config))]
    before = [(owner, dict(vars(owner))) for owner in {id(owner): owner for owner in owners}.values()]
    # Handles of hooks refer to the dicts of a module, so these are restored in place.
    dicts = [(value, dict(value)) for _, own in before for value in own.values() if isinstance(value, dict)]
    try:
        yield
    except BaseException:
        for owner, own in before:
            vars(owner).clear()
            vars(owner).update(own)
        for value, content in dicts:
            value.clear()
            value.update(content)
        raise

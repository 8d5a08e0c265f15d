"""The state of a model in passes with gradients; models whose forward pass lets no gradient reach a site."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from hf_vbp.errors import UnsupportedModelError
from hf_vbp.modeling.shared_copy import without_graphs


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Let no parameter of a model require gradients, and hide graphs of earlier passes; restored at the end.

    Args:
        model: The model.
    """
    with ExitStack() as restore:
        restore.enter_context(without_graphs(model))
        for parameter in model.parameters():
            restore.callback(parameter.requires_grad_, parameter.requires_grad)
        model.requires_grad_(False)
        yield


def check_gradients(model: Any, site: str) -> None:
    """Refuse a model that runs a site without gradients; called while the site runs.

    Its gradients would be zero although the output depends on it, so all its neurons would seem useless.

    Args:
        model: The model.
        site: Name of the site.

    Raises:
        UnsupportedModelError: Gradients are switched off.
    """
    if not torch.is_grad_enabled():
        raise UnsupportedModelError(
            f"{type(model).__name__} runs {site} without gradients (torch.no_grad in its forward pass)"
            f"{_what_to_do(model, site)}"
        )


def no_gradients(model: Any, site: str) -> UnsupportedModelError:
    """Return the error for a model whose output has no gradient with respect to any site.

    Args:
        model: The model.
        site: Name of one of its sites.
    """
    return UnsupportedModelError(
        f"No gradient of the output of {type(model).__name__} reaches its MLPs, for instance {site}: its forward "
        f"pass detaches their outputs, or does not use them{_what_to_do(model, site)}"
    )


def _what_to_do(model: Any, site: str) -> str:
    text = (
        ", and the output metric and criterion 'snip' are made of gradients. Use the method of the paper, which needs "
        "none: VBPConfig.preset('paper'), --preset paper on the command line."
    )
    tower = _tower(model, site)
    if tower is not None:
        text += (
            f" Or prune that part alone, with its own inputs: hf_vbp.prune(model.{tower}, batches, config, "
            "inplace=True), and save the model with hf_vbp.save_checkpoint."
        )
    return text


def _tower(model: Any, site: str) -> str | None:
    """Return the name of the innermost model inside a model that holds a site."""
    from transformers import PreTrainedModel

    names = [
        name
        for name, module in model.named_modules()
        if name and site.startswith(f"{name}.") and isinstance(module, PreTrainedModel)
    ]
    return max(names, key=len, default=None)

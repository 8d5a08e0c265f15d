"""Verify on a forward pass that the sites of a model are MLPs.

The input of ``fc2`` must be the same tensor object as the output of a chain of activation, dropout and identity
modules that starts at the output of ``fc1``; so no other operation is between them. A probe then verifies that the
activation acts on each neuron alone.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from hf_vbp.adapters.base import MLPSite
from hf_vbp.adapters.outputs import check_repeatable
from hf_vbp.errors import UnsupportedModelError
from hf_vbp.inputs.images import blank_images

_MAX_CHAIN = 8
# Module, its first input and its output.
_Call = tuple[Any, Any, Any]


def check_structure(model: nn.Module, sites: Sequence[MLPSite], pixel_values: torch.Tensor | None = None) -> Any:
    """Confirm that each site computes ``fc2(activation(fc1(x)))`` and is used once in a forward pass.

    Args:
        model: The model that the sites belong to; its mode is restored.
        sites: Its MLP sites.
        pixel_values: An input ``(batch, channels, height, width)``; by default one blank image of the size
            that the config describes.

    Returns:
        The output of the forward pass.

    Raises:
        UnsupportedModelError: A site has another structure; the message names the site and the finding. Or the
            forward pass is random in eval mode.
    """
    _check_shapes(model, sites)
    if pixel_values is None:
        pixel_values = blank_images(model)
    output, calls = _record(model, sites, pixel_values)
    for site in sites:
        _check_site(site, calls)
    check_repeatable(model, output, _forward(model, pixel_values))
    return output


def _check_shapes(model: nn.Module, sites: Sequence[MLPSite]) -> None:
    owners: dict[int, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        for parameter in module._parameters.values():
            if parameter is not None and owners.setdefault(id(parameter), name) != name:
                owners[id(parameter)] = f"{owners[id(parameter)]} and {name}"
    for site in sites:
        if site.fc1.out_features != site.fc2.in_features:
            raise UnsupportedModelError(
                f"{site.name}: fc1 has {site.fc1.out_features} outputs, but fc2 {site.fc2.in_features} inputs; "
                "a packed gated MLP cannot be pruned neuron by neuron. Register an adapter that leaves it out."
            )
        for linear in (site.fc1, site.fc2):
            if " and " in owners[id(linear.weight)]:
                raise UnsupportedModelError(
                    f"{site.name}: its weights are shared by {owners[id(linear.weight)]}. Give each module its own "
                    "(module.weight = torch.nn.Parameter(module.weight.detach().clone()))."
                )


def _record(model: nn.Module, sites: Sequence[MLPSite], pixel_values: torch.Tensor) -> tuple[Any, list[_Call]]:
    linears = {id(linear) for site in sites for linear in (site.fc1, site.fc2)}
    calls: list[_Call] = []

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if inputs and isinstance(output, torch.Tensor):
            calls.append((module, inputs[0], output))

    with ExitStack() as stack:
        for module in model.modules():
            stack.callback(setattr, module, "training", module.training)
            if id(module) in linears or not any(True for _ in module.children()):
                stack.callback(module.register_forward_hook(note).remove)
        return _forward(model, pixel_values), calls


def _forward(model: nn.Module, pixel_values: torch.Tensor) -> Any:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.inference_mode():
            return model(pixel_values=pixel_values)
    finally:
        for module in training:
            module.training = True


def _check_site(site: MLPSite, calls: list[_Call]) -> None:
    by_output = {id(output): (module, source) for module, source, output in calls if source is not output}
    uses = [source for module, source, _ in calls if module is site.fc2]
    if len(uses) != 1:
        raise UnsupportedModelError(
            f"{site.name}: fc2 ran {len(uses)} times in one forward pass, expected once; "
            "shared or unused MLPs cannot be pruned."
        )
    tensor, activations = uses[0], 0
    for _ in range(_MAX_CHAIN):
        if id(tensor) not in by_output:
            raise UnsupportedModelError(
                f"{site.name}: the input of fc2 does not come from fc1 through activation modules alone; "
                "the operations between them may mix neurons."
            )
        module, source = by_output[id(tensor)]
        if module is site.fc1:
            break
        if not isinstance(module, nn.Dropout | nn.Identity):
            _check_elementwise(site, module)
            activations += 1
        tensor = source
    if activations == 0:
        raise UnsupportedModelError(f"{site.name}: no activation between fc1 and fc2.")


def _check_elementwise(site: MLPSite, module: nn.Module) -> None:
    label = f"{site.name}: {type(module).__name__} is between fc1 and fc2"
    if any(True for _ in module.parameters()) or any(True for _ in module.buffers()):
        raise UnsupportedModelError(f"{label} and has its own weights, which would have to be pruned too.")
    probe = torch.linspace(-3, 3, 24).reshape(4, 6)
    moved = probe.clone()
    moved[1, 2] += 0.5
    with torch.no_grad():
        before, after = module(probe), module(moved)
    same = torch.ones_like(probe, dtype=torch.bool)
    same[1, 2] = False
    if before.shape != probe.shape or not torch.equal(before[same], after[same]):
        raise UnsupportedModelError(f"{label} and mixes hidden neurons, so they cannot be removed one by one.")

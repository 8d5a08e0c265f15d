"""Verify the sites of a model by perturbation, on forward passes of one batch.

Some neurons are perturbed at the output of the up projections of each site. At the input of its down projection only
these neurons may change; there the original input is restored, and the output of the model must then be what it was.
So nothing else uses the hidden neurons. At last a copy with a few neurons per site must give the output of the dense
model whose other neurons are zero.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hf_vbp._progress import one_line
from hf_vbp.adapters.base import MLPSite
from hf_vbp.adapters.outputs import check_repeatable, differ
from hf_vbp.errors import HfVbpError, UnsupportedModelError
from hf_vbp.inputs.batch import describe_inputs, model_inputs
from hf_vbp.inputs.example import example_batch
from hf_vbp.inputs.fit import images_of
from hf_vbp.modeling.modeling_hf_vbp import out_width, take_neurons
from hf_vbp.modeling.precision import eval_mode, forward_of_class, own_precision
from hf_vbp.modeling.shared_copy import copy_sharing_tensors

# Every third neuron, so that neighbors on both sides of a perturbed neuron are compared.
_STEP = 3
_KEPT = 3
# Bytes of inputs of down projections that are held at a time. Sites above it are perturbed in a pass of their own.
_HELD_BYTES = 2**27


def check_structure(model: nn.Module, sites: Sequence[MLPSite], batch: Mapping[str, Any] | None = None) -> Any:
    """Confirm that the hidden neurons of each site can be removed one by one.

    Args:
        model: The model that the sites belong to; its mode is restored.
        sites: Its MLP sites.
        batch: A batch that the processor of the model made; by default one made from the configs.

    Returns:
        The output of the forward pass.

    Raises:
        UnsupportedModelError: A site has another structure; the message names the site and the finding. Or the
            forward pass is random in eval mode, or fails on the batch.
        DataError: The images of the batch have another shape than the model takes.
    """
    check_shapes(model, sites)
    inputs = model_inputs(model, example_batch(model) if batch is None else batch)
    records = [_Record(site) for site in sites]
    try:
        with images_of(model, inputs):
            output = _forward(model, inputs, _watch(records, _HELD_BYTES))
    except HfVbpError:
        raise
    except (RuntimeError, ValueError, TypeError) as error:
        raise UnsupportedModelError(
            f"The forward pass of {type(model).__name__} fails on {describe_inputs(inputs)}: "
            f"{one_line(error, 300).rstrip('.')}. If it takes other inputs, pass data, or a "
            "batch that its processor made to every step: prepared = hf_vbp.adapters.prepare(model, batch)."
        ) from error
    for record in records:
        record.check_used()
    check_repeatable(model, output, _forward(model, inputs, []))
    for group in _groups(records):
        if not all(record.complete for record in group):
            _forward(model, inputs, _watch(group))
        changed = _forward(model, inputs, [record.perturb() for record in group])
        if differ(output, changed) or any(record.spread or not record.changed for record in group):
            _blame(model, inputs, output, group)
        for record in group:
            record.inputs.clear()
    _try_cut(model, sites, inputs)
    return output


def check_shapes(model: nn.Module, sites: Sequence[MLPSite]) -> None:
    """Refuse sites whose widths disagree or whose weights are shared; no forward pass is made.

    Args:
        model: The model that the sites belong to.
        sites: Its MLP sites.

    Raises:
        UnsupportedModelError: Names the site.
    """
    owners: dict[int, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        for parameter in module._parameters.values():
            if parameter is not None and owners.setdefault(id(parameter), name) != name:
                owners[id(parameter)] = f"{owners[id(parameter)]} and {name}"
    for site in sites:
        outs, width = {out_width(up) for up in site.mlp.ups}, site.intermediate_size
        if outs != {width * (2 if site.mlp.layout.packed else 1)}:
            raise UnsupportedModelError(
                f"{site.layout.ups[0]} has {max(outs)} outputs, but {site.layout.down} {width} inputs; a packed gated "
                "MLP must be described as packed. Register an adapter that does so, see docs/adapters.md."
            )
        for name, (module, _) in zip(site.module_names, site.mlp.modules, strict=True):
            weight = getattr(module, "weight", None)
            names = owners.get(id(weight), name)
            if " and " in names and model.get_submodule(names.split(" and ")[0]) is not module:
                raise UnsupportedModelError(
                    f"{site.name}: its weights are shared by {names}. Give each module its own "
                    "(module.weight = torch.nn.Parameter(module.weight.detach().clone()))."
                )


Hooks = list[tuple[nn.Module, str, Callable[..., Any]]]


@dataclass(eq=False)
class _Record:
    """The inputs that the down projection of a site had, call by call, and what a perturbation changed."""

    site: MLPSite
    inputs: list[Tensor] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    width: int = 0
    call: int = 0
    changed: bool = False
    spread: bool = False

    @property
    def complete(self) -> bool:
        """Whether the input of every call is held."""
        return len(self.inputs) == len(self.sizes)

    def keep(self, value: Tensor, room: float) -> float:
        """Hold an input where there is room for it, in bytes, and return the room that is left."""
        self.width = value.shape[1 if isinstance(self.site.fc2, nn.Conv2d) else -1]
        complete = self.complete
        self.sizes.append(value.nbytes)
        if not complete or value.nbytes > room:
            room += sum(held.nbytes for held in self.inputs)
            self.inputs.clear()
            return room
        self.inputs.append(value.detach().clone())
        return room - value.nbytes

    def check_used(self) -> None:
        """Refuse a site that did not run."""
        if not self.sizes:
            raise UnsupportedModelError(
                f"{self.site.layout.down} ran 0 times in one forward pass, expected at least once; unused MLPs cannot "
                "be pruned. Register an adapter that leaves it out, see docs/adapters.md."
            )
        if self.width != self.site.intermediate_size:
            raise UnsupportedModelError(
                f"The input of {self.site.layout.down} has {self.width} neurons, expected "
                f"{self.site.intermediate_size}."
            )

    def perturb(self) -> Hooks:
        """Return hooks that perturb the up projections, and restore the input of the down projection."""
        self.call, self.changed, self.spread = 0, False, False
        ups: Hooks = [(up, "output", self._add) for up in self.site.mlp.ups]
        return [*ups, (self.site.fc2, "input", self._restore)]

    def _perturbed(self) -> Tensor:
        rows = torch.zeros(self.site.intermediate_size, dtype=torch.bool)
        rows[::_STEP] = True
        return rows

    def _add(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        rows = self._perturbed().repeat(2 if self.site.mlp.layout.packed else 1).to(output.device)
        values = self.site.by_neuron(output)
        # By position of different sign and size, because activations are flat on one side of zero.
        noise = torch.linspace(-2, 3, values.numel(), device=output.device).reshape(values.shape).to(output.dtype)
        moved = torch.where(rows, values + noise * (1 + values.abs().mean()), values)
        return self.site.from_neurons(moved)

    def _restore(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        if self.call >= len(self.inputs) or self.inputs[self.call].shape != inputs[0].shape:
            self.spread = True
            return inputs
        original = self.inputs[self.call]
        self.call += 1
        difference = self.site.by_neuron((inputs[0] - original).abs()).flatten(0, -2).amax(0) > 0
        rows = self._perturbed().to(difference.device)
        self.changed |= bool(difference[rows].any())
        # In a normalization over the neurons each depends on all; surgery and compensation take care of it.
        self.spread |= bool(difference[~rows].any()) and not self.site.mixes_neurons
        return (original, *inputs[1:])

    def check_change(self) -> None:
        """Refuse a site in which a perturbation reached other neurons than it should."""
        if self.spread:
            raise UnsupportedModelError(
                f"{self.site.name}: a change of some hidden neurons changes others before "
                f"{self.site.layout.down}, because an operation between the projections mixes neurons, so they cannot "
                "be removed one by one. Register an adapter that leaves it out, see docs/adapters.md."
            )
        # A change of infinity has no effect; the pass over the images names what is not finite.
        if not self.changed and all(bool(values.isfinite().all()) for values in self.inputs):
            raise UnsupportedModelError(
                f"The input of {self.site.layout.down} does not come from the up projection "
                f"({self.site.layout.ups[0]}): a change there has no effect. Check the adapter of this model, see "
                "docs/adapters.md."
            )


def _watch(records: Sequence[_Record], room: float = math.inf) -> list[Hooks]:
    """Return hooks that keep the inputs of the down projections: all of a site, or none where they exceed the room."""
    for record in records:
        record.inputs.clear()
        record.sizes.clear()

    def keep(record: _Record, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        nonlocal room
        room = record.keep(inputs[0], room)

    return [[(record.site.fc2, "input", partial(keep, record))] for record in records]


def _groups(records: Sequence[_Record]) -> Iterator[list[_Record]]:
    """Yield the sites whose inputs are held, and then the others, as many at a time as there is room for."""
    held = [record for record in records if record.complete]
    if held:
        yield held
    group: list[_Record] = []
    for record in records:
        if record in held:
            continue
        if group and sum(sum(other.sizes) for other in (*group, record)) > _HELD_BYTES:
            yield group
            group = []
        group.append(record)
    if group:
        yield group


def _blame(model: nn.Module, inputs: dict[str, Any], output: Any, records: Sequence[_Record]) -> None:
    # One by one: what leaves one MLP changes those behind it too.
    for record in records:
        changed = _forward(model, inputs, [record.perturb()])
        record.check_change()
        if differ(output, changed):
            raise UnsupportedModelError(
                f"{record.site.name}: the output of its up projection is used outside of the MLP too, so its neurons "
                "cannot be removed. Register an adapter that leaves it out, see docs/adapters.md."
            )


def _try_cut(model: nn.Module, sites: Sequence[MLPSite], inputs: dict[str, Any]) -> None:
    smaller: dict[int, Any] = {}
    hooks: Hooks = []
    for site in sites:
        kept = torch.arange(min(_KEPT, site.intermediate_size))
        for module, role in site.mlp.modules:
            smaller[id(module)] = take_neurons(site.mlp, kept, module, role)
        hooks.append((site.fc2, "input", partial(_keep_only, site, len(kept))))
    names = ", ".join(site.name for site in sites[:3])
    try:
        # A forward that was assigned to a module is bound to it, so a copy would run the original.
        with own_precision(model), forward_of_class(model):
            small = _forward(copy_sharing_tensors(model, smaller), inputs, [])
            zeroed = _forward(model, inputs, [hooks])
    except (RuntimeError, ValueError) as error:
        raise UnsupportedModelError(
            f"A copy of {type(model).__name__} with a few neurons in each MLP ({names}, ...) cannot run, because "
            f"something else depends on their number: {one_line(error, 300)}"
        ) from error
    if not any(site.mixes_neurons for site in sites) and differ(small, zeroed):
        raise UnsupportedModelError(
            f"A copy of {type(model).__name__} with a few neurons in each MLP ({names}, ...) gives other outputs than "
            "the model whose other neurons are zero, so an operation between the projections mixes or permutes "
            "neurons. Register an adapter that leaves these MLPs out, see docs/adapters.md."
        )


def _keep_only(site: MLPSite, kept: int, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    values = site.by_neuron(inputs[0]).clone()
    values[..., kept:] = 0
    return (site.from_neurons(values), *inputs[1:])


def _forward(model: nn.Module, inputs: dict[str, Any], hooks: Sequence[Hooks]) -> Any:
    with ExitStack() as stack:
        stack.enter_context(eval_mode(model))
        for module, kind, hook in (one for several in hooks for one in several):
            listen = module.register_forward_pre_hook if kind == "input" else module.register_forward_hook
            stack.callback(listen(hook).remove)
        stack.enter_context(torch.no_grad())
        return model(**inputs)

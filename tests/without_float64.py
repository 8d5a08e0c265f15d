"""A device without float64, as MPS is, simulated on the CPU.

It follows the rules of MPS that matter here: no tensor in float64, also not on the way to the CPU (a copy to another
dtype is converted on the device), and no operation with tensors of the CPU. It shows that no such operation is
attempted; it does not show what the kernels of a real device compute.

``python -m tests.without_float64`` prunes a model on it in every way that a device is used, in a process of its own,
because torch cannot forget the device.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

NAME = "privateuseone"
DEVICE = torch.device(NAME, 0)
_COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
_INDEXING = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default, torch.ops.aten.index_put.default}


class OnDevice(torch.Tensor):
    """A tensor of the simulated device."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "OnDevice":
        if inner.dtype == torch.float64:
            raise TypeError("Cannot convert a Tensor of this device to float64.")
        made: OnDevice = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = OnDevice(self.inner.detach().clone())
        memo[id(self)] = nn.Parameter(copied, self.requires_grad) if isinstance(self, nn.Parameter) else copied
        return memo[id(self)]

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"OnDevice({self.inner!r})"


class _Factories(TorchDispatchMode):
    """Makes tensors on the simulated device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_iter((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    mine = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
    given = kwargs.get("device")
    to_device = given is not None and torch.device(given).type == NAME
    if to_device:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if not mine and not to_device:
        return func(*args, **kwargs)
    source = tensors[-1] if func in _COPIES else None
    target = kwargs.get("dtype") if func is torch.ops.aten._to_copy.default else tensors[0].dtype if tensors else None
    if isinstance(source, OnDevice) and target == torch.float64:
        raise TypeError("Cannot convert a Tensor of this device to float64.")
    mixed = [tensor for tensor in tensors if not isinstance(tensor, OnDevice) and tensor.dim() > 0]
    if mine and mixed and func not in _COPIES | _INDEXING:
        raise RuntimeError(f"{func}: Expected all tensors to be on the same device, found two.")
    result = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    if func is torch.ops.aten.copy_.default:
        return args[0]
    if given is not None and not to_device:
        return result
    known = {id(tensor.inner): tensor for tensor in mine}

    def outer(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return known[id(leaf)] if id(leaf) in known else OnDevice(leaf)

    return tree_map(outer, result)


def _inner(leaf: Any) -> Any:
    return leaf.inner if isinstance(leaf, OnDevice) else leaf


@contextmanager
def device_without_float64(*models: nn.Module) -> Iterator[None]:
    """Move models to the simulated device, and hide from the checks that its tensors are of a subclass."""
    from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

    from hf_vbp.adapters import prunable
    from hf_vbp.modeling import arithmetic

    class Backend(_DummyBackendModule):
        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.float16]

    _setup_privateuseone_for_python_backend(backend_module=Backend())
    arithmetic.has_float64 = lambda device: device.type == "cpu"
    prunable._refuse_special_parameters = lambda model: None
    for module in (module for model in models for module in model.modules()):
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                module._parameters[name] = nn.Parameter(OnDevice(parameter.detach()), parameter.requires_grad)
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = OnDevice(buffer)
    with torch.autograd.set_multithreading_enabled(False), _Factories():
        yield


def main() -> None:
    """Prune on the CPU and on the device, and compare."""
    # Tensors of subclasses cannot be made in inference mode.
    torch.inference_mode = lambda mode=True: torch.no_grad() if mode else nullcontext()
    import hf_vbp
    from hf_vbp.adapters.prepared import prepare
    from hf_vbp.calibration.batch_moments import Workspace
    from hf_vbp.calibration.collect import collect_statistics
    from hf_vbp.calibration.hooked_model import draw_labels
    from hf_vbp.calibration.site_accumulator import SiteAccumulator
    from hf_vbp.calibration.tokens import Tokens
    from hf_vbp.config.requirements import Requirements
    from tests.conftest import make_model

    generator = torch.Generator().manual_seed(0)
    images = [
        {"pixel_values": torch.randn(8, 3, 32, 32, generator=generator), "labels": torch.arange(8) % 5}
        for _ in range(3)
    ]
    paper, best = hf_vbp.VBPConfig.preset("paper", ratio=0.5), hf_vbp.VBPConfig(ratio=0.5)
    classifier = hf_vbp.prune(make_model(), images, paper, eval_data=images)
    # No metric, because torch refuses a backward pass on a device that does not exist.
    plain = {"criterion_options": {"metric": "identity"}, "compensation_options": {"token_weights": "none"}}
    without_gradients = hf_vbp.VBPConfig(ratio=0.5, **plain)
    backbone = hf_vbp.prune(make_model("vit-backbone"), images, without_gradients)
    weighted = collect_statistics(make_model(), images, best).sites[0]
    models = [make_model(), make_model("vit-backbone")]
    with device_without_float64(*models):
        found = hf_vbp.prune(models[0], images, paper, eval_data=images)
        assert next(found.model.parameters()).device == DEVICE
        assert found.plan.widths == classifier.plan.widths
        for name in ("dense", "pruned"):
            expected, measured = (result.results["evaluation"][name] for result in (classifier, found))
            assert measured["top1"] == expected["top1"]
            assert measured.get("kl", 0) == pytest.approx(expected.get("kl", 0), rel=1e-4)
        assert hf_vbp.prune(models[1], images, without_gradients).plan.widths == backbone.plan.widths
        scored = hf_vbp.precompute_scores(models[1], backbone.statistics, without_gradients, device=str(DEVICE))
        assert scored.provides.names() == backbone.statistics.provides.names()
        labels = draw_labels(OnDevice(torch.randn(4, 5)), range(4), 0)
        assert labels.shape == (4,)
        site, requires = prepare(models[0]).sites[0], Requirements(True, True, True)
        accumulator = SiteAccumulator(site, Workspace(), requires)
        rows, gradients = OnDevice(torch.randn(8, 17, 48)), OnDevice(torch.randn(8, 17, 32))
        accumulator.add(Tokens(rows), [(0, 0, 8)])
        assert accumulator.sound()
        accumulator.add_gradients(Tokens(gradients), Tokens(rows))
        gathered = accumulator.finish()
        assert gathered.metric.dtype == gathered.weighted.m2.dtype == weighted.metric.dtype == torch.float64
    print("done")


if __name__ == "__main__":
    main()

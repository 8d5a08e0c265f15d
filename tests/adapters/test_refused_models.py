"""Models that cannot be pruned as they are: refused before any work, unchanged, with the next step."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm
from torch.nn.utils import prune as masks

import hf_vbp
from hf_vbp.adapters.registry import find_sites
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.errors import UnsupportedModelError
from tests.conftest import make_model


class Unread:
    """Data that must not be read, since the model is refused first."""

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("the images were read before the model was checked")


def refused(model: Any, says: str) -> None:
    """Check that every entry point refuses the model before it reads anything, and leaves its tensors unchanged."""
    state = {name: (type(tensor), id(tensor)) for name, tensor in model.state_dict(keep_vars=True).items()}
    modules = [id(module) for module in model.modules()]
    with pytest.raises(UnsupportedModelError, match=says) as caught:
        hf_vbp.prune(model, Unread(), VBPConfig(ratio=0.5))
    assert "\n" not in str(caught.value)
    with pytest.raises(UnsupportedModelError, match=says):
        hf_vbp.collect_statistics(model, Unread())
    with pytest.raises(UnsupportedModelError, match=says):
        find_sites(model)
    assert {name: (type(t), id(t)) for name, t in model.state_dict(keep_vars=True).items()} == state
    assert [id(module) for module in model.modules()] == modules


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method.:DeprecationWarning")  # torch warns of itself
class TestCompiled:
    def test_in_place(self, vit: Any) -> None:
        vit.compile(backend="eager")
        refused(vit, r"The model is compiled in place .*Prune the model before it is compiled")

    def test_a_block_in_place(self, vit: Any) -> None:
        vit.vit.layers[1].compile(backend="eager")
        refused(vit, r"The module vit.layers.1 is compiled in place")

    def test_a_wrapped_block(self, vit: Any) -> None:
        vit.vit.layers[1] = torch.compile(vit.vit.layers[1], backend="eager")
        refused(vit, r"The module vit.layers.1 is compiled by torch.compile.*_orig_mod")

    def test_the_forward(self, vit: Any) -> None:
        vit.forward = torch.compile(vit.forward, backend="eager")
        refused(vit, "compiled in place")


class TestWrapped:
    def test_a_part_in_data_parallel(self, vit: Any) -> None:
        vit.vit = nn.DataParallel(vit.vit)
        refused(vit, r"The module vit is wrapped in DataParallel.*unwrap_model")

    @pytest.fixture
    def one_process(self) -> Iterator[None]:
        if not torch.distributed.is_available():
            pytest.skip("torch without distributed")
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        yield
        torch.distributed.destroy_process_group()

    def test_ddp(self, vit: Any, one_process: None) -> None:
        refused(nn.parallel.DistributedDataParallel(vit), "wrapped in DistributedDataParallel")

    def test_fsdp2(self, vit: Any, one_process: None) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        fully_shard(vit, mesh=init_device_mesh("cpu", (1,)))
        refused(vit, "sharded by fully_shard.*before it is sharded")

    def test_distributed_tensors(self, vit: Any, one_process: None) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import distribute_module

        distribute_module(vit.classifier, init_device_mesh("cpu", (1,)))
        refused(vit, r"classifier.weight is distributed over processes \(DTensor")

    def test_partitioned_by_deepspeed(self, vit: Any) -> None:
        # A parameter under ZeRO 3: no elements, and its number.
        weight = vit.vit.layers[0].mlp.fc1.weight
        weight.ds_id, weight.data = 3, torch.empty(0)
        refused(vit, "DeepSpeed ZeRO")


class Int8Tensor(torch.Tensor):
    """A tensor subclass whose storage differs from its dtype, as those of torchao."""

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> "Int8Tensor":
        scale = values.abs().amax() / 127
        made: Any = torch.Tensor._make_wrapper_subclass(cls, values.shape, dtype=values.dtype)
        made.values, made.scale = (values / scale).round().to(torch.int8), scale
        return made  # type: ignore[no-any-return]

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.detach.default:
            return args[0]
        plain = [a.values.float() * a.scale if isinstance(a, cls) else a for a in args]
        return function(*plain, **(kwargs or {}))


class TestQuantized:
    def test_weights_quantized_in_place(self, vit: Any) -> None:
        linear = vit.vit.layers[0].mlp.fc1
        linear.weight = nn.Parameter(Int8Tensor(linear.weight.detach()), requires_grad=False)
        refused(vit, r"layers.0.mlp.fc1.weight is a Int8Tensor, expected a plain torch tensor.*quantize the result")

    def test_weights_outside_of_the_mlps(self, vit: Any) -> None:
        linear = vit.classifier
        linear.weight = nn.Parameter(Int8Tensor(linear.weight.detach()), requires_grad=False)
        refused(vit, "classifier.weight is a Int8Tensor")

    def test_quantized_linears(self, vit: Any) -> None:
        torchao = pytest.importorskip("torchao.quantization")
        torchao.quantize_(vit, torchao.Int8WeightOnlyConfig())
        refused(vit, "expected a plain torch tensor")


@pytest.mark.parametrize("path", ["vit.layers.0.mlp.fc1", "vit.layers.1.attention.o_proj"])
class TestReparametrized:
    def test_masks(self, vit: Any, path: str) -> None:
        masks.l1_unstructured(vit.get_submodule(path), "weight", 0.5)
        refused(vit, f"The module {path} has a mask of torch.nn.utils.prune. Make it permanent first")

    def test_masks_made_permanent_are_plain(self, vit: Any, path: str, batches: Any) -> None:
        masks.l1_unstructured(vit.get_submodule(path), "weight", 0.5)
        masks.remove(vit.get_submodule(path), "weight")
        assert sum(hf_vbp.prune(vit, batches, VBPConfig(ratio=0.5)).plan.widths) == 72

    @pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
    def test_weight_norm_by_hooks(self, vit: Any, path: str) -> None:
        nn.utils.weight_norm(vit.get_submodule(path))
        refused(vit, f"The module {path} computes its weight from other tensors")

    def test_spectral_norm_by_hooks(self, vit: Any, path: str) -> None:
        spectral_norm(vit.get_submodule(path))
        refused(vit, f"The module {path} computes its weight from other tensors")

    def test_parametrization(self, vit: Any, path: str) -> None:
        parametrizations.weight_norm(vit.get_submodule(path))
        refused(vit, f"The module {path} computes its weight from other tensors.*remove_parametrizations")


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft reads the old name
@pytest.mark.parametrize("target", ["fc1", "q_proj"])
def test_injected_lora_layers(vit: Any, target: str) -> None:
    peft = pytest.importorskip("peft")
    refused(peft.inject_adapter_in_model(peft.LoraConfig(target_modules=[target], r=2), vit), "holds PEFT adapters")


class TestOffloaded:
    def test_to_the_cpu(self, vit: Any) -> None:
        from accelerate import cpu_offload

        refused(cpu_offload(vit, "cpu"), r"not in memory \(meta or offloaded\)")

    def test_by_a_hook_that_moves_whole_models(self, vit: Any) -> None:
        from accelerate import cpu_offload_with_hook

        refused(cpu_offload_with_hook(vit, "cpu")[0], "move the tensors of the model between devices while it runs")

    def test_hooks_on_one_device(self, vit: Any) -> None:
        from accelerate import dispatch_model
        from accelerate.hooks import remove_hook_from_module

        hooked = dispatch_model(vit, {"": "cpu"}, force_hooks=True)
        refused(hooked, r"move the tensors of the model.*remove_hook_from_module")
        assert len(find_sites(remove_hook_from_module(hooked, recurse=True))) == 3


class OwnViT(transformers.ViTForImageClassification):
    """A user's subclass."""


class OwnNetwork(transformers.PreTrainedModel):
    """A user's network around a model of transformers."""

    config_class = transformers.ViTConfig
    _supports_sdpa = True

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.vit = transformers.ViTModel(config)
        self.post_init()


class TestOwnClasses:
    def test_a_subclass(self, vit: Any) -> None:
        model = OwnViT(vit.config)
        refused(model, r"OwnViT \(.*\) is not a class of transformers.*ViTForImageClassification\(model.config\)")

    def test_a_network_around_one(self, vit: Any) -> None:
        refused(OwnNetwork(vit.config), "OwnNetwork .*Prune the transformers model inside it")

    def test_the_advice_works(self, vit: Any, batches: Any) -> None:
        own = OwnViT(vit.config)
        stock = transformers.ViTForImageClassification(own.config)
        stock.load_state_dict(own.state_dict())
        assert sum(hf_vbp.prune(stock, batches, VBPConfig(ratio=0.5)).plan.widths) == 72


def test_parameters_made_in_inference_mode() -> None:
    with torch.inference_mode():
        model = make_model()
    refused(model, r"was created inside torch.inference_mode\(\).*Load the model outside")

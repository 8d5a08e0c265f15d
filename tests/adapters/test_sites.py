"""The adapters name the MLPs of ViT and DeiT under every head, in the order of the forward pass."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hf_vbp.adapters import registry as registry_module
from hf_vbp.adapters.base import MLPSite
from hf_vbp.adapters.linear_pair import LinearPairAdapter
from hf_vbp.adapters.registry import (
    find_sites,
    get_adapter,
    left_out_of,
    register_adapter,
    registered_model_types,
)
from hf_vbp.errors import ConfigurationError, NonFiniteError, UnsupportedModelError
from hf_vbp.modeling.modeling_hf_vbp import Layout
from tests.config.distributions import install
from tests.conftest import TINY, make_model


@pytest.mark.parametrize("kind", ["vit", "vit-backbone", "deit", "deit-teacher", "deit-backbone"])
def test_sites_are_the_mlps_in_the_order_of_the_forward_pass(kind: str) -> None:
    model = make_model(kind)
    sites = find_sites(model)
    ran: list[nn.Module] = []
    handles = [site.fc2.register_forward_hook(lambda module, *_: ran.append(module)) for site in sites]
    with torch.no_grad():
        model(pixel_values=torch.zeros(1, 3, 32, 32))
    for handle in handles:
        handle.remove()
    assert [site.fc2 for site in sites] == ran
    assert [site.index for site in sites] == list(range(TINY["num_hidden_layers"]))
    assert {(site.intermediate_size, site.hidden_size) for site in sites} == {(48, 32)}
    assert all(model.get_submodule(site.layout.ups[0]) is site.fc1 for site in sites)


def test_parameters_per_neuron_is_the_saving_of_removing_one(vit: Any) -> None:
    site = find_sites(vit)[0]
    before = sum(p.numel() for p in (*site.fc1.parameters(), *site.fc2.parameters()))
    after = sum(p.numel() for p in (*nn.Linear(32, 47).parameters(), *nn.Linear(47, 32).parameters()))
    assert site.parameters_per_neuron == before - after


def test_the_pooler_is_left_out_with_a_reason() -> None:
    model = make_model("vit-backbone")
    assert list(get_adapter(model).left_out(model)) == ["pooler"]


def test_a_text_model_is_refused_by_name() -> None:
    from transformers import BertConfig, BertModel

    model = BertModel(BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48))
    with pytest.raises(
        UnsupportedModelError, match=r"BertModel has the model type 'bert', whose config describes no images"
    ):
        find_sites(model)


def test_a_registered_adapter_replaces_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import IJepaConfig, IJepaModel

    monkeypatch.setattr(registry_module, "_ADAPTERS", dict(registry_module._ADAPTERS))
    model = IJepaModel(IJepaConfig(**{**TINY, "num_labels": 2}))
    assert len(find_sites(model)) == TINY["num_hidden_layers"]
    register_adapter("ijepa", LinearPairAdapter(blocks=r"layers\.[01]$"))
    assert registered_model_types() == ("ijepa",)
    assert len(find_sites(model)) == 2
    with pytest.raises(ConfigurationError, match="overwrite=True"):
        register_adapter("ijepa", LinearPairAdapter())


def test_register_adapter_refuses_other_objects() -> None:
    with pytest.raises(ConfigurationError, match="find_sites, left_out"):
        register_adapter("x", object())  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"is the class LinearPairAdapter; pass an instance, LinearPairAda.*"):
        register_adapter("x", LinearPairAdapter)  # type: ignore[arg-type]


class TestAdaptersOfOtherDistributions:
    @pytest.fixture
    def ijepa(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        from transformers import IJepaConfig, IJepaModel

        monkeypatch.setattr(registry_module, "_ADAPTERS", dict(registry_module._ADAPTERS))
        return IJepaModel(IJepaConfig(**{**TINY, "num_labels": 2}))

    def test_an_entry_point_opens_a_family(self, ijepa: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        source = "from hf_vbp.adapters import LinearPairAdapter\nadapter = LinearPairAdapter(blocks=r'layers\\.1$')"
        value = "ijepa_adapter:adapter"
        install(tmp_path, monkeypatch, "hf_vbp.adapters", name="ijepa", installed=value, ijepa_adapter=source)
        assert registered_model_types() == ("ijepa",)
        assert len(find_sites(ijepa)) == 1

    def test_its_module_may_register_the_adapter(
        self, ijepa: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = "import hf_vbp.adapters as a\na.register_adapter('ijepa', a.LinearPairAdapter(blocks=r'layers\\.1$'))"
        install(tmp_path, monkeypatch, "hf_vbp.adapters", name="ijepa", installed="ijepa_two", ijepa_two=source)
        assert len(find_sites(ijepa)) == 1

    def test_a_broken_entry_point_affects_only_its_family(
        self, ijepa: Any, vit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        install(tmp_path, monkeypatch, "hf_vbp.adapters", name="ijepa", installed="no_such_module:adapter")
        assert len(find_sites(vit)) == TINY["num_hidden_layers"]
        with pytest.raises(ConfigurationError, match=r"distribution 'fake', cannot be imported.*no_such_module"):
            find_sites(ijepa)


def test_a_model_without_mlps_at_their_places(monkeypatch: pytest.MonkeyPatch, vit: Any) -> None:
    monkeypatch.setattr(registry_module, "_ADAPTERS", {"vit": LinearPairAdapter(pairs=(("a", "b"),))})
    with pytest.raises(UnsupportedModelError, match="has no MLP that can be pruned"):
        find_sites(vit)


def test_a_fault_of_a_users_adapter_names_it(monkeypatch: pytest.MonkeyPatch, vit: Any) -> None:
    class Broken:
        def find_sites(self, model: Any) -> Any:
            if model.config.num_hidden_layers:
                return [model.vit.layers[0].mlp]
            return [MLPSite.named(0, model, Layout(("nowhere.fc1",), "nowhere.fc2"))]

        def left_out(self, model: Any) -> Any:
            return {}["reason"]

    monkeypatch.setattr(registry_module, "_ADAPTERS", {"vit": Broken()})
    with pytest.raises(
        ConfigurationError, match=r"find_sites of the adapter for 'vit' returned a ViTMLP, expected .*Site"
    ):
        find_sites(vit)
    with pytest.raises(ConfigurationError, match=r"left_out of the adapter of ViTForIm.* raised KeyError: 'reason'"):
        left_out_of(vit)
    vit.config.num_hidden_layers = 0
    with pytest.raises(
        ConfigurationError, match=r"find_sites of the adapter for 'vit' raised AttributeError: .*nowhere"
    ):
        find_sites(vit)


def test_a_gated_mlp_is_refused_with_the_reason(vit: Any) -> None:
    vit.vit.layers[1].mlp.gate_proj = nn.Linear(32, 48)
    with pytest.raises(UnsupportedModelError, match=r"layers.1.mlp cannot be pruned: it is gated"):
        LinearPairAdapter().find_sites(vit)


def test_linears_of_another_kind_are_refused(vit: Any) -> None:
    class Quantized(nn.Linear):
        pass

    vit.vit.layers[0].mlp.fc1 = Quantized(32, 48)
    with pytest.raises(UnsupportedModelError, match="Quantized, expected a plain"):
        find_sites(vit)


class TestModelsThatAreRefused:
    def test_not_a_module(self) -> None:
        with pytest.raises(UnsupportedModelError, match="got str"):
            find_sites("google/vit")  # type: ignore[arg-type]

    def test_no_config(self) -> None:
        with pytest.raises(UnsupportedModelError, match="with a config, got Linear"):
            find_sites(nn.Linear(2, 2))

    @pytest.mark.filterwarnings("ignore:.torch.jit.script_method.:DeprecationWarning")  # torch warns of itself
    def test_compiled(self, vit: Any) -> None:
        with pytest.raises(UnsupportedModelError, match=r"compiled by torch\.compile"):
            find_sites(torch.compile(vit))

    def test_data_parallel(self, vit: Any) -> None:
        with pytest.raises(UnsupportedModelError, match="wrapped in DataParallel"):
            find_sites(nn.DataParallel(vit))

    @pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft reads the old name
    def test_peft(self, vit: Any) -> None:
        peft = pytest.importorskip("peft")
        wrapped = peft.get_peft_model(vit, peft.LoraConfig(target_modules=["fc1"]))
        with pytest.raises(UnsupportedModelError, match="merge_and_unload"):
            find_sites(wrapped)

    def test_quantized(self, vit: Any) -> None:
        vit.config.quantization_config = {"quant_method": "torchao"}
        with pytest.raises(UnsupportedModelError, match="quantized"):
            find_sites(vit)

    def test_meta(self, vit: Any) -> None:
        with pytest.raises(UnsupportedModelError, match="not in memory"):
            find_sites(vit.to("meta"))


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_the_error_names_weights_that_are_not_finite(vit: Any, poison: float) -> None:
    from hf_vbp.adapters.prunable import check_finite_weights

    sites = find_sites(vit)
    with torch.no_grad():
        sites[2].fc2.weight[0, 0] = poison
    with pytest.raises(NonFiniteError, match=r"vit.layers.2.mlp.fc2.weight"):
        check_finite_weights(sites)

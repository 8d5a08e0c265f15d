"""The file that is saved with checkpoints: finding MLPs, resizing them, reading the record."""

import copy
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from hf_vbp.adapters.registry import find_sites
from hf_vbp.modeling import modeling_hf_vbp
from hf_vbp.modeling.modeling_hf_vbp import DenseReads, auto_map, check_loaded, find_mlps, recorded_widths, resize
from tests.checkpoint.helpers import WIDTHS, make_pruned, outputs, widths_of
from tests.conftest import make_model

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
SWIN = {"embed_dim": 16, "depths": [1, 2], "num_heads": [2, 2], "image_size": 32, "patch_size": 4, "window_size": 4}
CONVNEXT = {"hidden_sizes": [8, 16], "depths": [1, 2], "num_stages": 2}
FAMILIES = [
    ("BeitConfig", "BeitModel", {**SMALL, "intermediate_size": 40}, [40, 40]),
    ("SwinConfig", "SwinForImageClassification", SWIN, [64, 128, 128]),
    ("Swinv2Config", "Swinv2ForImageClassification", SWIN, [64, 128, 128]),
    ("ConvNextConfig", "ConvNextForImageClassification", CONVNEXT, [32, 64, 64]),
    ("Dinov2Config", "Dinov2ForImageClassification", SMALL, [128, 128]),
    ("Data2VecVisionConfig", "Data2VecVisionModel", {**SMALL, "intermediate_size": 40}, [40, 40]),
    # The pooling head has an MLP too, which is not pruned.
    ("SiglipVisionConfig", "SiglipVisionModel", {**SMALL, "intermediate_size": 40}, [40, 40]),
    # Gated, or with modules between the linears that have one entry per neuron.
    ("Dinov2Config", "Dinov2ForImageClassification", {**SMALL, "use_swiglu_ffn": True}, [88, 88]),
    ("ConvNextV2Config", "ConvNextV2ForImageClassification", CONVNEXT, [32, 64, 64]),
    ("SegformerConfig", "SegformerForImageClassification", {}, [128, 128, 256, 256, 640, 640, 1024, 1024]),
]


@pytest.mark.parametrize("kind", ["vit", "deit", "deit-teacher", "vit-backbone"])
def test_pairs_are_the_sites_of_the_adapter(kind: str) -> None:
    model = make_model(kind)
    found = [(mlp.names, mlp.ups[0], mlp.down) for mlp in find_mlps(model)]
    assert found == [(site.module_names, site.fc1, site.fc2) for site in find_sites(model)]


@pytest.mark.parametrize(("config", "name", "options", "widths"), FAMILIES)
def test_pairs_of_other_families_on_meta(config: str, name: str, options: dict[str, Any], widths: list[int]) -> None:
    with torch.device("meta"):
        model = getattr(transformers, name)(getattr(transformers, config)(**options))
    assert widths_of(model) == widths
    assert resize(model, [width - 3 for width in widths])
    assert widths_of(model) == [width - 3 for width in widths]
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_resize_keeps_dtype_first_neurons_and_flags(dtype: torch.dtype) -> None:
    model = make_model(dtype=dtype)
    dense = copy.deepcopy(model)
    find_mlps(model)[0].ups[0].weight.requires_grad_(False)
    assert resize(model, WIDTHS)
    for mlp, before, width in zip(find_mlps(model), find_mlps(dense), WIDTHS, strict=True):
        assert (mlp.ups[0].out_features, mlp.down.in_features) == (width, width)
        assert mlp.ups[0].weight.dtype == mlp.down.bias.dtype == dtype
        assert torch.equal(mlp.ups[0].weight, before.ups[0].weight[:width])
        assert torch.equal(mlp.ups[0].bias, before.ups[0].bias[:width])
        assert torch.equal(mlp.down.weight, before.down.weight[:, :width])
        assert torch.equal(mlp.down.bias, before.down.bias)
    assert not find_mlps(model)[0].ups[0].weight.requires_grad


def test_resize_again_touches_nothing() -> None:
    model = make_pruned()
    parameters = [id(parameter) for parameter in model.parameters()]
    assert resize(model, WIDTHS)
    assert [id(parameter) for parameter in model.parameters()] == parameters


def test_resize_refuses_another_number_of_mlps() -> None:
    model = make_model()
    assert not resize(model, [3, 3])
    assert widths_of(model) == [48, 48, 48]


def test_new_neurons_are_silent() -> None:
    model = make_pruned()
    before = outputs(model)["logits"]
    resize(model, [60, 60, 60])
    assert torch.allclose(outputs(model)["logits"], before, atol=1e-6)
    assert not find_mlps(model)[1].ups[0].weight.any()


@pytest.mark.parametrize("record", [None, "something else", 3, [], {}, {"of": "another tool"}])
def test_other_records_are_not_ours(record: Any) -> None:
    assert recorded_widths(SimpleNamespace(vbp=record)) is None


def test_no_record() -> None:
    assert recorded_widths(SimpleNamespace()) is None


@pytest.mark.parametrize(
    "record",
    [
        {"version": 1},
        {"version": 1, "widths": []},
        {"version": 1, "widths": "12"},
        {"version": 1, "widths": [1, -1]},
        {"version": 1, "widths": [1.0, 2]},
        {"version": 1, "widths": [True, 2]},
        {"version": 1, "widths": {"0": 3}},
        {"version": 3, "widths": [1, 2]},
        {"version": 4, "widths": [1, 2]},
        {"version": 4, "merged_tokens": [0, 2]},
        {"merged_tokens": [0, 2]},
        {"version": 2, "merged_tokens": [0, 2]},
        {"version": 2, "widths": [1, 2], "merged_tokens": [0, 2]},
        {"version": 3, "merged_tokens": []},
        {"version": 3, "merged_tokens": [2, 2]},
        {"version": 3, "merged_tokens": [0, -2]},
        {"version": 3, "merged_tokens": [0, 2.0]},
        {"version": 3, "merged_tokens": [0, True]},
        {"version": 3, "merged_tokens": {"0": 2}},
        {"version": 3, "widths": [], "merged_tokens": [0, 2]},
        {"version": True, "widths": [1, 2]},
        {"widths": [1, 2]},
        {"version": 2, "widths": [1, 2], "modules": {"fc1": "fc2"}},
        {"version": 2, "widths": [1, 2], "modules": [["fc1", "fc2", "fc3"]]},
        {"version": 2, "widths": [1, 2], "modules": [["fc1", ""]]},
        {"version": 2, "widths": [1, 2], "modules": [["fc1", "fc2"]] * 3},
    ],
)
def test_damaged_records_are_refused(record: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"config\.vbp"):
        recorded_widths(SimpleNamespace(vbp=record))


def test_dense_reads_end_with_the_block_and_with_an_error() -> None:
    config = make_pruned().config
    before = config.to_json_string()
    with pytest.raises(KeyError, match="inside"), DenseReads(config):  # noqa: PT012 - what is tested is inside
        with DenseReads(config):
            assert config.intermediate_size == 48
        assert config.intermediate_size == 48
        assert config.to_json_string() == before
        raise KeyError("inside")
    with pytest.raises(RuntimeError, match="per-layer"):
        _ = config.intermediate_size
    assert config.to_json_string() == before


def test_dense_reads_do_not_change_other_configs() -> None:
    config = make_model().config
    before = dict(vars(config))
    with DenseReads(config):
        assert vars(config) == before
    assert vars(config) == before


def test_check_loaded_names_the_mlp() -> None:
    model = make_pruned()
    check_loaded(model, {"missing_keys": {"classifier.weight"}, "mismatched_keys": []})
    key = find_mlps(model)[2].names[-1] + ".weight"
    with pytest.raises(ValueError, match=r"37 neurons for MLP 2.*\(32, 40\)"):
        check_loaded(model, {"missing_keys": [], "mismatched_keys": [(key, (32, 40), (32, 37))]})
    with pytest.raises(ValueError, match=r"37 neurons for MLP 2.*missing"):
        check_loaded(model, {"missing_keys": [key]})


def test_auto_map_names_the_class_that_was_saved() -> None:
    config = make_model("deit-teacher").config
    config.architectures = ["DeiTForImageClassificationWithTeacher"]
    entries = auto_map(config)
    assert entries["AutoModelForImageClassification"] == "modeling_hf_vbp.DeiTForImageClassificationWithTeacher"
    assert entries["AutoModel"] == "modeling_hf_vbp.DeiTModel"
    config.architectures = None
    assert auto_map(config)["AutoModelForImageClassification"] == "modeling_hf_vbp.DeiTForImageClassification"


def test_classes_are_made_from_those_of_transformers() -> None:
    made = modeling_hf_vbp.ViTForImageClassification
    assert issubclass(made, transformers.ViTForImageClassification)
    assert (made.__name__, made.__module__) == ("ViTForImageClassification", "hf_vbp.modeling.modeling_hf_vbp")
    assert made is modeling_hf_vbp.ViTForImageClassification
    for name in ("NoSuchModel", "AutoConfig", "_private", "__path__"):
        assert not hasattr(modeling_hf_vbp, name)


def test_made_classes_build_copy_and_pickle() -> None:
    config = make_pruned().config
    model = modeling_hf_vbp.ViTForImageClassification(config).eval()
    assert widths_of(model) == WIDTHS
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert 0.01 < find_mlps(model)[2].ups[0].weight.std() < 0.03
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(outputs(other)["logits"], outputs(model)["logits"])
    config.vbp["widths"] = [5, 5]
    with pytest.raises(ValueError, match="widths for 2 MLPs, but ViTForImageClassification has 3"):
        modeling_hf_vbp.ViTForImageClassification(config)


def test_linears_without_bias() -> None:
    class MLP(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(4, 8, bias=False), nn.Linear(8, 4, bias=False)

    model = MLP()
    assert resize(model, [3])
    assert (model.fc1.weight.shape, model.fc2.weight.shape) == ((3, 4), (4, 3))
    assert find_mlps(model)[0].parent == ""

"""Models whose linears have names that are not in the built-in table are pruned, saved and loaded again."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    SamVisionModel,
    ViTConfig,
    ViTForImageClassification,
)

import hf_vbp
from hf_vbp.adapters.base import MLPSite
from hf_vbp.adapters.linear_pair import LinearPairAdapter
from hf_vbp.adapters.prepared import prepare
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.errors import CheckpointError, UnsupportedModelError
from hf_vbp.modeling import modeling_hf_vbp
from hf_vbp.modeling.config_record import (
    check_recorded,
    locate,
    qualified_layout,
    record_pruning,
    split_layout,
    write_widths,
)
from hf_vbp.modeling.modeling_hf_vbp import Layout, Record, find_mlps, read_record, resize
from tests.checkpoint.helpers import WIDTHS, assert_same_outputs, change_config, make_pruned, make_sam, read_config
from tests.conftest import TINY, make_model


@pytest.fixture
def _sam_adapter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr("hf_vbp.adapters.registry._ADAPTERS", {})
        hf_vbp.register_adapter("sam_vision_model", LinearPairAdapter(pairs=(("mlp.lin1", "mlp.lin2"),)))
        yield


@pytest.mark.usefixtures("_sam_adapter")
def test_custom_adapter_from_pruning_to_reload(batches: Any, tmp_path: Path) -> None:
    images = [{"pixel_values": batch["pixel_values"]} for batch in batches]
    result = hf_vbp.prune(make_sam(), images, VBPConfig.preset("paper", ratio=0.5))
    assert len(set(result.plan.widths)) > 1
    receipt = hf_vbp.save_checkpoint(result, tmp_path / "out")
    assert [(entry.way, entry.max_abs_difference) for entry in receipt.entries] == [
        ("import", 0.0),
        ("remote_code", 0.0),
    ]
    assert read_config(tmp_path / "out")["vbp"]["modules"] == [["lin1", "lin2"]]
    loaded = AutoModel.from_pretrained(tmp_path / "out")
    assert type(loaded) is SamVisionModel
    assert_same_outputs(loaded, result.model)
    again = hf_vbp.prune(loaded, images, VBPConfig.preset("paper", ratio=0.2))
    assert again.model.config.vbp["dense_widths"] == [48, 48, 48]


def test_a_table_without_their_names_does_not_find_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = tuple(row for row in modeling_hf_vbp.LAYOUTS if row.down != "lin2")
    monkeypatch.setattr(modeling_hf_vbp, "LAYOUTS", others)
    model = make_pruned("sam-backbone")
    model.save_pretrained(tmp_path)
    record = dict(read_config(tmp_path)["vbp"])
    del record["modules"]
    change_config(tmp_path, vbp=record)
    with pytest.raises(CheckpointError, match="widths for 3 MLPs, but SamVisionModel has 0"):
        AutoModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("names", [["intermediate.dense", "output.dense"], ["fc1", "fc2"], ["not", "there"]])
def test_names_of_another_transformers_version(names: list[str], trust: bool, tmp_path: Path) -> None:
    model = make_pruned()
    model.save_pretrained(tmp_path)
    change_config(tmp_path, vbp={**read_config(tmp_path)["vbp"], "modules": [names]})
    assert_same_outputs(AutoModelForImageClassification.from_pretrained(tmp_path, trust_remote_code=trust), model)


@pytest.mark.parametrize(
    ("up", "down", "names"),
    [
        ("vit.layers.0.mlp.fc1", "vit.layers.0.mlp.fc2", ("fc1", "fc2")),
        ("layer.0.intermediate.dense", "layer.0.output.dense", ("intermediate.dense", "output.dense")),
        ("ups.0", "downs.0", ("ups.0", "downs.0")),
        ("a.ups.0", "a.downs.0", ("ups.0", "downs.0")),
        ("mlp.0", "mlp.2", ("0", "2")),
        ("fc1", "fc2", ("fc1", "fc2")),
    ],
)
def test_local_names(up: str, down: str, names: tuple[str, str]) -> None:
    assert split_layout(pair(up, down))[1] == pair(*names)


def pair(up: str, down: str) -> Layout:
    """The layout of a plain MLP."""
    return Layout((up,), down)


class Lists(nn.Module):
    """Keeps the linears of its MLPs in two lists, so that the local names differ from MLP to MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.ups = nn.ModuleList(nn.Linear(4, 8) for _ in range(2))
        self.downs = nn.ModuleList(nn.Linear(8, 4) for _ in range(2))
        self.config = ViTConfig(num_hidden_layers=7)


class Sequences(nn.Module):
    """Has sequences with a pruned MLP, and a head of the same form."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4)) for _ in range(2))
        self.head = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4))
        self.config = ViTConfig(num_hidden_layers=7)


@pytest.mark.parametrize(
    ("model_class", "linears", "widths"),
    [
        (Lists, [("ups.0", "downs.0"), ("ups.1", "downs.1")], (3, 5)),
        (Sequences, [("blocks.0.0", "blocks.0.2"), ("blocks.1.0", "blocks.1.2")], (3, 5)),
        # Only some of the MLPs with these names were pruned: the others are recorded with their width.
        (Sequences, [("blocks.1.0", "blocks.1.2")], (8, 5)),
        (Sequences, [("blocks.1.0", "blocks.1.2"), ("head.0", "head.2")], (8, 5, 2)),
    ],
)
def test_record_and_rebuild(model_class: Any, linears: list[tuple[str, str]], widths: tuple[int, ...]) -> None:
    model, fresh = model_class(), model_class()
    layouts = [pair(*names) for names in linears]
    (part,) = locate(model, layouts)
    names = tuple(mlp.layout for mlp in part.mlps)
    dense = [mlp.width for mlp in part.mlps if part.qualified(mlp) in layouts]
    assert resize(model, Record(widths, names))
    record_pruning(model, layouts, dense)
    record = read_record(model.config)
    assert record == Record(widths, names)
    assert resize(fresh, record)
    assert [parameter.shape for parameter in fresh.parameters()] == [p.shape for p in model.parameters()]
    check_recorded(model)
    assert resize(model, Record(tuple(width + 1 for width in widths), names))
    with pytest.raises(CheckpointError, match="config records"):
        check_recorded(model)


def test_linears_that_cannot_be_found_again() -> None:
    model = Lists()
    with pytest.raises(UnsupportedModelError, match=r"ups\.0 and downs\.9 cannot be found again"):
        locate(model, [pair("ups.0", "downs.9")])


@pytest.mark.usefixtures("_sam_adapter")
def test_an_adapter_that_names_other_modules_is_refused_before_the_statistics() -> None:
    class WrongNames(LinearPairAdapter):
        def find_sites(self, model: nn.Module) -> tuple[MLPSite, ...]:
            return tuple(
                dataclasses.replace(site, layout=pair("elsewhere.lin1", site.layout.down))
                for site in super().find_sites(model)
            )

    adapter = WrongNames(pairs=(("mlp.lin1", "mlp.lin2"),))
    hf_vbp.register_adapter("sam_vision_model", adapter, overwrite=True)
    with pytest.raises(UnsupportedModelError, match=r"elsewhere\.lin1 and .* cannot be found again"):
        prepare(make_sam())


def test_an_intermediate_size_that_is_not_the_width_is_not_written() -> None:
    """A subclass builds MLPs of twice the intermediate_size; equal widths must not be written as intermediate_size."""
    config = ViTConfig(**TINY)
    model = ViTForImageClassification(config)
    linears = [qualified_layout(mlp) for mlp in find_mlps(model)]
    config.intermediate_size = 24
    resize(model, [20, 20, 20])
    record_pruning(model, linears, [48, 48, 48])
    assert (config.intermediate_size, config.vbp["widths"]) == (24, [20, 20, 20])


def test_names_for_each_mlp_are_written_where_they_differ() -> None:
    config = ViTConfig(**TINY)
    modules = [pair("a", "b"), pair("a", "b"), pair("c", "d")]
    write_widths(config, WIDTHS, dense_widths=[48, 48, 48], modules=modules)
    assert config.vbp["modules"] == [["a", "b"], ["a", "b"], ["c", "d"]]
    assert read_record(config) == Record(tuple(WIDTHS), tuple(modules))


def test_pruned_twice_keeps_the_first_dense_widths() -> None:
    model = make_model()
    linears = [qualified_layout(mlp) for mlp in find_mlps(model)]
    for dense, widths in (([48, 48, 48], [10, 20, 30]), ([10, 20, 30], [5, 5, 6])):
        resize(model, widths)
        record_pruning(model, linears, dense)
    assert (model.config.vbp["widths"], model.config.vbp["dense_widths"]) == ([5, 5, 6], [48, 48, 48])
    assert [layer.intermediate_size for layer in model.config.per_layer_config] == [5, 5, 6]

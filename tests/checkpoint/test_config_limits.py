"""A config that describes a model too large to build is refused before anything of it is built."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

import hf_vbp
from hf_vbp.adapters.prepared import prepare_structure
from hf_vbp.checkpoint import config_limits
from hf_vbp.checkpoint.config_limits import bounded_model, check_config_size
from hf_vbp.checkpoint.load_errors import load_errors
from hf_vbp.errors import CheckpointError, UnsupportedModelError
from hf_vbp.workflow.inspect import inspect_model
from hf_vbp.workflow.loading import load_model, load_structure
from tests.conftest import TINY, make_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_model().save_pretrained(tmp_path)
    return tmp_path


def change(folder: Path, **changes: Any) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **changes}))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_hidden_layers": 10**9}, "'num_hidden_layers' 1000000000"),
        ({"vision_config": {"depths": [2, 10**6]}}, "'depths' 1000000"),
        ({"num_labels": 10**9}, "'num_labels' 1000000000"),
        ({"vbp": {"version": 3, "merged_tokens": [0, 10**9, 1]}}, "'merged_tokens' 1000000000"),
        # 20 GB of position embeddings, that the weights do not have.
        ({"image_size": 100_000}, "more than 5,000,.* parameters, but its weights have"),
    ],
)
def test_numbers_that_no_model_has(folder: Path, changes: dict[str, Any], says: str) -> None:
    change(folder, **changes)
    with pytest.raises(CheckpointError, match=says):
        hf_vbp.from_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"intermediate_size": -1}, "'intermediate_size' -1, expected at least 0"),
        ({"num_attention_heads": 0}, "'num_attention_heads' 0, expected at least 1"),
        ({"num_channels": -3}, "'num_channels' -3, expected at least 1"),
        ({"image_size": [32, 0]}, "'image_size' 0, expected at least 1"),
        ({"num_hidden_layers": -1}, "'num_hidden_layers' -1, expected at least 0"),
        ({"vision_config": {"hidden_size": 0}}, "'hidden_size' 0, expected at least 1"),
        ({"hidden_act": "nope"}, "'hidden_act' 'nope', expected the name of an activation of transformers"),
        ({"hidden_act": "gelu_pytorch_tan"}, "'hidden_act' 'gelu_pytorch_tan', .* such as 'gelu_pytorch_tanh'"),
        ({"architectures": "ViT"}, r"'architectures' 'ViT', expected a list, \['ViT'\]"),
    ],
)
@pytest.mark.parametrize("load", [hf_vbp.from_pretrained, lambda folder: load_structure(str(folder))])
def test_values_that_describe_no_model(folder: Path, changes: dict[str, Any], says: str, load: Any) -> None:
    change(folder, **changes)
    with pytest.raises(CheckpointError, match=f"^The config of .* has {says}"):
        load(folder)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("on", ["cpu", "meta"])
def test_a_model_without_hidden_neurons_has_nothing_to_prune(on: str) -> None:
    with torch.device(on):
        model = ViTForImageClassification(ViTConfig(**{**TINY, "intermediate_size": 0})).eval()
    with pytest.raises(UnsupportedModelError, match=r"^All 3 MLPs of ViTForImageClassification have 0 hidden neurons"):
        inspect_model(prepare_structure(model) if on == "meta" else model)


@pytest.mark.parametrize("load", [load_model, load_structure])
@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "int8"])
def test_a_dtype_in_which_no_model_computes(folder: Path, dtype: str, load: Any) -> None:
    change(folder, dtype=dtype)
    with pytest.raises(CheckpointError, match=f"has the dtype torch.{dtype}; expected a floating one of 16 bits"):
        load(str(folder))
    assert load_model(str(folder), dtype="float32").model.dtype == torch.float32


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"weight_map": {"a": "../../../etc/passwd"}}, "names the shard '../../../etc/passwd', which is not"),
        ({"weight_map": {"a": "model-1.safetensors"}}, "names the shard 'model-1.safetensors', which is not"),
        ({"weight_map": {}}, "names no shards"),
        ({}, "names no shards"),
        ([], "is not a JSON object"),
    ],
)  # fmt: skip
def test_an_index_whose_shards_are_missing(folder: Path, weights: str, content: Any, says: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / f"{weights}.index.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=f"{weights}.index.json {says}.*[.] Restore the files"):
        hf_vbp.from_pretrained(folder)


def test_other_numbers_may_be_large(folder: Path) -> None:
    change(folder, total_params=86_000_000_000, seed=2**63, max_depth=65_535, notes={"images_seen": 10**12})
    assert hf_vbp.from_pretrained(folder).config.seed == 2**63


def test_names_of_classes_are_no_fields(folder: Path) -> None:
    # Class 819 of ImageNet is "stage".
    change(folder, label2id={"stage": 819, "heads": 200_000}, id2label={"819": "stage"})
    check_config_size(folder)


def test_no_config_of_transformers_is_refused() -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    checked = 0
    for model_type in CONFIG_MAPPING:
        try:
            content = CONFIG_MAPPING[model_type]().to_dict()
        except load_errors():
            continue
        config_limits.check_fields(content, model_type)
        checked += 1
    assert checked > 300


def test_a_large_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_limits, "_LARGEST_FILE", 100)
    with pytest.raises(CheckpointError, match="expected at most 100"):
        check_config_size(folder)


def test_models_of_many_modules_in_this_thread_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_limits, "_MOST_MODULES", 10)
    with bounded_model("few"):
        nn.Sequential(*[nn.Identity() for _ in range(10)])
    with pytest.raises(CheckpointError, match="more than 10 modules"), bounded_model("many"):
        nn.Sequential(*[nn.Identity() for _ in range(11)])
    # The limit ends with the block.
    nn.Sequential(*[nn.Identity() for _ in range(100)])


def test_a_new_head_of_many_classes_is_allowed(folder: Path) -> None:
    model = hf_vbp.from_pretrained(folder, num_labels=20_000, ignore_mismatched_sizes=True)
    assert model.classifier.out_features == 20_000


@pytest.mark.parametrize(("adapter", "configs"), [(None, 1), ("/cache/adapter_config.json", 2)])
@pytest.mark.parametrize("load", [load_structure, load_model, hf_vbp.from_pretrained])
def test_a_hub_that_cannot_be_reached_is_asked_once(
    monkeypatch: pytest.MonkeyPatch, load: Any, adapter: str | None, configs: int
) -> None:
    asked: list[str] = []

    def no_connection(repo_id: str, filename: str, **_: Any) -> str:
        asked.append(filename)
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr("transformers.utils.hub.hf_hub_download", no_connection)
    # The tests run offline, where nothing is asked.
    monkeypatch.setattr(config_limits, "is_offline_mode", lambda: False)
    monkeypatch.setattr(config_limits, "try_to_load_from_cache", lambda *_, **__: adapter)
    with pytest.raises(CheckpointError, match="nodir cannot be loaded"):
        load("nodir")
    assert asked.count("config.json") == configs
    # An adapter in the cache has no config.json of its own, so loading is not given up.
    assert len(asked) == 1 or adapter is not None

"""A config that describes a model too large to build is refused before anything of it is built."""

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import hf_vbp
from hf_vbp.checkpoint import config_limits
from hf_vbp.checkpoint.config_limits import bounded_model, check_config_size
from hf_vbp.checkpoint.load_errors import load_errors
from hf_vbp.errors import CheckpointError
from tests.conftest import make_model


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
        config_limits._check_numbers(content, model_type)
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

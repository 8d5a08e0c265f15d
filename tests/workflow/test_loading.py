"""Checkpoints that cannot be loaded: one sentence of limited length, whatever upstream raises."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers

import hf_vbp
from hf_vbp.errors import CheckpointError, HfVbpError
from hf_vbp.workflow.loading import Loading, load_model
from hf_vbp.workflow.requests import DataRequest, without_processor
from tests.conftest import make_model

LONG = "x" * 100_000


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """Keep the loading reports of transformers out of the output of the tests."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(before)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    make_model().save_pretrained(tmp_path)
    return tmp_path


def test_images_are_read_with_the_token_and_the_cache_of_the_model(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    monkeypatch.setattr("hf_vbp.data.loading.load_images", lambda *_, **options: given.append(options) or Images())
    loaded = load_model(str(checkpoint), token="hf_x", cache_dir=checkpoint / "hub")
    assert "hf_x" not in repr(loaded)
    DataRequest("someone/photos").open(replace(loaded, processor=object()), "calibration", labels="none")
    assert (given[0]["token"], given[0]["cache_dir"]) == ("hf_x", checkpoint / "hub")


def test_an_export_is_loaded_with_the_given_revisions_token_and_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[Any] = []
    monkeypatch.setattr(
        "hf_vbp.workflow.export_model.run_export", lambda request, _: requests.append(request) or {"exports": []}
    )
    hub = {"revision": "v2", "base_revision": "v1", "token": "hf_x", "cache_dir": "hub"}
    hf_vbp.export_model("me/pruned", "out", base="me/dense", **hub)
    (request,) = requests
    assert request.loading == Loading(revision="v2", token="hf_x", cache_dir=Path("hub"))
    assert request.base_revision == "v1"


class Images:
    images = 12


def refused(folder: Path) -> list[str]:
    """Check that a checkpoint is refused by both ways of loading, and return the messages."""
    messages = []
    for load in (load_model, hf_vbp.from_pretrained):
        with pytest.raises(HfVbpError) as caught:
            load(str(folder))
        messages.append(str(caught.value))
    assert all("\n" not in message and len(message) < 1200 for message in messages)
    return messages


@pytest.mark.parametrize(
    "fields",
    [
        {"hidden_size": "32"},
        {"num_hidden_layers": None},
        {"intermediate_size": 48.5},
        {"num_attention_heads": 0},
        {"patch_size": 0},
        {"id2label": ["cat"]},
        {"id2label": {"first": "cat"}},
        {"hidden_act": "unknown"},
        {"hidden_act": LONG},
        {"model_type": LONG},
        {"model_type": 3},
        {"auto_map": 3},
        {"per_layer_config": 3},
        {"per_layer_config": {"0": {"intermediate_size": "48"}}},
        {"vbp": {"version": 1, "widths": LONG}},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        {"quantization_config": "4 bits"},
        {"attn_implementation": "flash_attention_2"},
    ],
    ids=lambda fields: ", ".join(f"{name}={str(value)[:30]}" for name, value in fields.items()),
)
def test_wrong_fields_and_missing_packages(checkpoint: Path, fields: dict[str, Any]) -> None:
    config = checkpoint / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text(encoding="utf-8")), **fields}), encoding="utf-8")
    refused(checkpoint)


@pytest.mark.parametrize("text", ["[]", '"vit"', "{", "3", "null"])
def test_a_config_that_is_none(checkpoint: Path, text: str) -> None:
    (checkpoint / "config.json").write_text(text, encoding="utf-8")
    refused(checkpoint)


@pytest.mark.parametrize(
    "content",
    [b"", b"no pickle" * 100, b"PK\x03\x04 no archive", b"\x80\x02cos\nsystem\n(S'true'\ntR."],
    ids=["empty", "text", "archive", "code"],
)
def test_a_damaged_bin_file(checkpoint: Path, content: bytes) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "pytorch_model.bin").write_bytes(content)
    refused(checkpoint)


@pytest.mark.parametrize("kept", [0, 7, 5000])
def test_truncated_weights(checkpoint: Path, kept: int) -> None:
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    refused(checkpoint)


@pytest.mark.parametrize("index", ["{}", "[]", '{"weight_map": {"a": "missing.safetensors"}}'])
def test_a_damaged_index(checkpoint: Path, index: str) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    refused(checkpoint)


@pytest.mark.parametrize("architectures", [[LONG], 3, [3], ["Linear"]], ids=["long", "number", "numbers", "other"])
def test_a_class_that_does_not_exist(checkpoint: Path, architectures: Any) -> None:
    config = checkpoint / "config.json"
    content = {**json.loads(config.read_text(encoding="utf-8")), "architectures": architectures}
    config.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(HfVbpError, match="was saved from the class") as caught:
        load_model(str(checkpoint))
    assert len(str(caught.value)) < 700


def test_the_reason_is_kept(checkpoint: Path) -> None:
    config = checkpoint / "config.json"
    content = {**json.loads(config.read_text(encoding="utf-8")), "hidden_size": "32"}
    config.write_text(json.dumps(content), encoding="utf-8")
    for message in refused(checkpoint):
        assert "hidden_size" in message


def test_what_to_do_next_at_the_end_of_a_long_text_is_kept() -> None:
    class Refusing:
        @staticmethod
        def from_pretrained(*args: Any, **kwargs: Any) -> Any:
            raise OSError("word " * 180 + "pip install flash-attn")

    with pytest.raises(CheckpointError, match=r"pip install flash-attn$"):
        hf_vbp.from_pretrained("somewhere", auto_class=Refusing)


def test_damaged_and_mismatched_weights_are_named(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    changed = {**config, "num_labels": 1, "id2label": {"0": "score"}, "label2id": {"score": 0}}
    (checkpoint / "config.json").write_text(json.dumps(changed), encoding="utf-8")
    for message in refused(checkpoint):
        assert "some of its weights have other shapes than its config.json describes" in message
    (checkpoint / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (checkpoint / "model.safetensors").unlink()
    for content in (b"bad", b""):
        (checkpoint / "pytorch_model.bin").write_bytes(content)
        for message in refused(checkpoint):
            assert "its .bin weights are damaged" in message


def test_a_damaged_processor_is_not_called_missing(checkpoint: Path) -> None:
    assert "has no image processor (preprocessor_config.json)" in str(without_processor(str(checkpoint)))
    (checkpoint / "preprocessor_config.json").write_text("{bad", encoding="utf-8")
    message = str(without_processor(str(checkpoint)))
    assert "has no image processor that can be loaded (" in message
    assert "preprocessor_config.json" in message


def test_a_name_that_is_neither_a_folder_nor_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        CheckpointError, match="cannot be loaded from the Hub, and there is no folder of that name here"
    ):
        load_model("nowhere")

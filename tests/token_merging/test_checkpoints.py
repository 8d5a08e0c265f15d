"""Merged tokens are saved with the model, restored by every way that merges, and refused by readers that cannot."""

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModel, AutoModelForImageClassification, Trainer, TrainingArguments

import hf_vbp
from hf_vbp.checkpoint.receipt import applicable_ways, take_receipt
from hf_vbp.errors import CheckpointError
from hf_vbp.modeling import modeling_hf_vbp
from hf_vbp.modeling.config_record import write_widths
from hf_vbp.modeling.modeling_hf_vbp import merged_tokens
from hf_vbp.results.record import load_results
from tests.checkpoint.helpers import DENSE, UNIFORM, change_config, make_pruned, read_config
from tests.distillation.helpers import Images

from .models import CLASSES, inputs_of, make, result

COUNTS = [0, 5, 3]
RECORD = {"version": 3, "merged_tokens": COUNTS}


def merging(name: str = "ViTForImageClassification", **changes: Any) -> Any:
    model = make(name, **changes)
    hf_vbp.merge_tokens(model, COUNTS)
    return model


@pytest.mark.parametrize("name", CLASSES)
def test_import_restores_merging_bit_for_bit(name: str, tmp_path: Path) -> None:
    model = merging(name)
    inputs = inputs_of(model)
    model.save_pretrained(tmp_path)
    loaded = getattr(transformers, name).from_pretrained(tmp_path)
    assert merged_tokens(loaded) == tuple(COUNTS)
    assert torch.equal(result(loaded, inputs), result(model, inputs))
    # Saved again and loaded again.
    loaded.save_pretrained(tmp_path / "again")
    assert read_config(tmp_path / "again")["architectures"] == [name]
    again = getattr(transformers, name).from_pretrained(tmp_path / "again")
    assert torch.equal(result(again, inputs), result(model, inputs))


@pytest.mark.parametrize("name", ["ViTForImageClassification", "CLIPModel", "SiglipForImageClassification"])
def test_receipt_in_fresh_processes(name: str, tmp_path: Path) -> None:
    model = merging(name)
    receipt = hf_vbp.save_checkpoint(model, tmp_path / "saved")
    assert receipt.ways == ("import", "remote_code", "stock")
    assert [entry.max_abs_difference for entry in receipt.entries] == [0.0] * 3
    assert [entry.without_merging for entry in receipt.entries] == [False, False, True]
    rows = receipt.to_list()
    assert "without_merging" not in rows[0]
    assert rows[2]["without_merging"] is True
    # The model in memory merges as before, and the folder alone gives the same receipt.
    assert merged_tokens(model) == tuple(COUNTS)
    assert hf_vbp.verify_checkpoint(tmp_path / "saved") == receipt


def test_receipt_of_a_model_that_is_pruned_too(tmp_path: Path) -> None:
    model = make_pruned()
    hf_vbp.merge_tokens(model, COUNTS)
    assert model.config.vbp["version"] == 3
    receipt = hf_vbp.save_checkpoint(model, tmp_path / "widths")
    assert receipt.ways == ("import", "remote_code")
    assert all(entry.max_abs_difference == 0.0 for entry in receipt.entries)


def test_receipt_of_a_model_of_equal_widths(tmp_path: Path) -> None:
    model = make_pruned(widths=UNIFORM)
    hf_vbp.merge_tokens(model, COUNTS)
    assert model.config.vbp == RECORD
    receipt = hf_vbp.save_checkpoint(model, tmp_path / "equal")
    assert receipt.ways == ("import", "remote_code", "stock")
    assert all(entry.max_abs_difference == 0.0 for entry in receipt.entries)


def test_receipt_that_merges_otherwise_is_refused(tmp_path: Path) -> None:
    model = merging()
    hf_vbp.save_checkpoint(model, tmp_path / "saved", verify=False)
    change_config(tmp_path / "saved", vbp={"version": 3, "merged_tokens": [0, 6, 3]})
    with pytest.raises(CheckpointError, match="differ"):
        take_receipt(model, tmp_path / "saved", ways=["import"])


def test_model_that_does_not_merge_as_recorded_is_not_saved(tmp_path: Path) -> None:
    model = merging()
    modeling_hf_vbp.remove_token_merging(model)
    with pytest.raises(CheckpointError, match=r"hf_vbp\.merge_tokens"):
        hf_vbp.save_checkpoint(model, tmp_path / "saved")
    model = make("ViTForImageClassification")
    modeling_hf_vbp.set_token_merging(model, COUNTS)
    with pytest.raises(CheckpointError, match=r"hf_vbp\.merge_tokens"):
        hf_vbp.save_checkpoint(model, tmp_path / "saved")


def test_checkpoints_without_merging_have_the_same_record_and_files_as_before(tmp_path: Path) -> None:
    model = make_pruned()
    hf_vbp.merge_tokens(model, COUNTS)
    hf_vbp.merge_tokens(model, 0)
    assert model.config.to_dict() == make_pruned().config.to_dict()
    assert model.config.vbp["version"] == 2
    plain = make("ViTForImageClassification")
    hf_vbp.merge_tokens(plain, COUNTS)
    hf_vbp.merge_tokens(plain, 0)
    plain.save_pretrained(tmp_path)
    assert "vbp" not in read_config(tmp_path)
    assert not (tmp_path / "modeling_hf_vbp.py").exists()
    assert applicable_ways(tmp_path) == ("import", "stock")


def test_readers_of_widths_alone_refuse_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    config = merging().config
    monkeypatch.setattr(modeling_hf_vbp, "_READABLE_VERSIONS", (1, 2))
    with pytest.raises(ValueError, match="upgrade hf_vbp"):
        modeling_hf_vbp.read_record(config)


@pytest.mark.parametrize(
    "counts", [[0, 5], [0, 5, 3, 1], [5, 0, 0], [0, -1, 0], [], "8", None, [0, 5.0, 1], {"0": 1}], ids=str
)
@pytest.mark.parametrize("remote", [False, True])
def test_damaged_records_are_refused(counts: Any, remote: bool, tmp_path: Path) -> None:
    merging().save_pretrained(tmp_path)
    change_config(tmp_path, vbp={"version": 3, "merged_tokens": counts})
    with pytest.raises((CheckpointError, ValueError), match=r"merged_tokens.*restore it"):
        AutoModelForImageClassification.from_pretrained(tmp_path, trust_remote_code=remote)


def test_bare_backbone_of_the_checkpoint_loads_without_merging_and_warns(tmp_path: Path) -> None:
    model = merging()
    model.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="ViTModel needs every token"):
        backbone = AutoModel.from_pretrained(tmp_path, add_pooling_layer=False)
    assert merged_tokens(backbone) == ()
    assert not hasattr(backbone.config, "vbp")
    inputs = inputs_of(model)
    modeling_hf_vbp.remove_token_merging(model)
    with torch.no_grad():
        expected = model.vit(**inputs).last_hidden_state
        assert torch.equal(backbone(**inputs).last_hidden_state, expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backbone.save_pretrained(tmp_path / "backbone")
        AutoModel.from_pretrained(tmp_path / "backbone", add_pooling_layer=False)


def test_bare_backbone_of_a_pruned_checkpoint_keeps_its_widths(tmp_path: Path) -> None:
    model = make_pruned()
    hf_vbp.merge_tokens(model, COUNTS)
    model.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="needs every token"):
        backbone = AutoModel.from_pretrained(tmp_path, add_pooling_layer=False)
    expected = {name: value for name, value in make_pruned().config.vbp.items()}
    assert backbone.config.vbp == expected


def test_tower_of_a_model_merges_alone(tmp_path: Path) -> None:
    model: Any = merging("CLIPModel")
    model.save_pretrained(tmp_path)
    assert read_config(tmp_path)["vision_config"]["vbp"] == RECORD
    assert "vbp" not in read_config(tmp_path)["text_config"]
    tower = transformers.CLIPVisionModel.from_pretrained(tmp_path)
    inputs = inputs_of(model)
    with torch.no_grad():
        expected = model.vision_model(inputs["pixel_values"]).pooler_output
        assert torch.equal(tower(inputs["pixel_values"]).pooler_output, expected)


@pytest.mark.parametrize("widths", [[11, 0, 37], UNIFORM])
def test_widths_that_are_written_later_keep_the_merging(widths: list[int]) -> None:
    model = merging("ViTForImageClassification")
    write_widths(model.config, widths, dense_widths=DENSE)
    assert model.config.vbp["merged_tokens"] == COUNTS
    assert model.config.vbp["version"] == 3


def test_padding_and_pruning_keep_the_merging(batches: list[dict[str, torch.Tensor]], tmp_path: Path) -> None:
    pruned = make_pruned()
    hf_vbp.merge_tokens(pruned, COUNTS)
    padded: Any = hf_vbp.pad_to_uniform_width(pruned)
    assert padded.config.vbp == RECORD
    assert merged_tokens(padded) == tuple(COUNTS)
    inputs = {"pixel_values": batches[0]["pixel_values"]}
    torch.testing.assert_close(result(padded, inputs), result(pruned, inputs), atol=1e-5, rtol=1e-5)
    found = hf_vbp.prune(merging(), batches, hf_vbp.VBPConfig(ratio=0.5))
    assert merged_tokens(found.model) == tuple(COUNTS)
    assert found.model.config.vbp["merged_tokens"] == COUNTS
    found.save_pretrained(tmp_path / "pruned", verify=False)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "pruned")
    assert torch.equal(result(loaded, inputs), result(found.model, inputs))


def test_trainer_keeps_merging(tmp_path: Path) -> None:
    model = merging()
    arguments = TrainingArguments(
        str(tmp_path / "run"), max_steps=3, per_device_train_batch_size=4, report_to=[], save_steps=2, use_cpu=True
    )
    Trainer(model, arguments, train_dataset=Images(12)).train()
    last = tmp_path / "run" / "checkpoint-3"
    loaded = AutoModelForImageClassification.from_pretrained(last)
    inputs = inputs_of(model)
    assert merged_tokens(loaded) == tuple(COUNTS)
    assert torch.equal(result(loaded, inputs), result(model.eval(), inputs))
    resumed = Trainer(merging(), arguments, train_dataset=Images(12))
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert merged_tokens(resumed.model) == tuple(COUNTS)
    assert resumed.state.global_step == 3


def test_a_new_head_and_another_dtype_keep_merging(tmp_path: Path) -> None:
    merging().save_pretrained(tmp_path)
    model = hf_vbp.from_pretrained(tmp_path, num_labels=9, ignore_mismatched_sizes=True, dtype=torch.bfloat16)
    assert merged_tokens(model) == tuple(COUNTS)
    built = AutoModelForImageClassification.from_config(model.config)
    assert merged_tokens(built) == tuple(COUNTS)


def test_results_and_card_name_the_merging(vit: Any, batches: list[dict[str, torch.Tensor]], tmp_path: Path) -> None:
    from hf_vbp.card.render import make_facts, render_card

    found = hf_vbp.evaluate(hf_vbp.prune(vit, batches, hf_vbp.VBPConfig(ratio=0.5, round_to=8)), batches)
    before = copy.deepcopy(found.results)
    hf_vbp.merge_tokens(found.model, COUNTS)
    found.save_pretrained(tmp_path / "unmeasured", verify=False)
    results: Any = load_results(tmp_path / "unmeasured")
    assert results["merged_tokens"] == COUNTS
    assert results["cost"]["pruned"]["macs"] < before["cost"]["pruned"]["macs"]
    assert results["cost"]["pruned"]["bytes"] == before["cost"]["pruned"]["bytes"]
    # Figures of the model without merging are not those of this one.
    assert set(results["evaluation"]) == {"dense"}
    assert "observed" not in results
    measured = hf_vbp.evaluate(found, batches)
    measured.save_pretrained(tmp_path / "measured")
    results = load_results(tmp_path / "measured")
    assert set(results["evaluation"]) == {"dense", "pruned", "retention"} & set(measured.results["evaluation"])
    card = render_card(make_facts(results, repo_id="me/x"))
    assert "Number of tokens merged before each block: 0, 5, 3." in card


def test_card_of_a_model_that_plain_transformers_loads_without_merging(tmp_path: Path) -> None:
    from hf_vbp.card.render import make_facts, render_card
    from tests.hub.helpers import make_results

    row = {"way": "stock", "transformers": "5.24.0", "max_abs_difference": 0.0, "without_merging": True}
    card = render_card(make_facts(make_results(merged_tokens=COUNTS, receipt=[row]), repo_id="me/x"))
    assert "but without merging tokens" in card
    assert "stock, without merging" in card
    assert "merg" not in render_card(make_facts(make_results(), repo_id="me/x")).lower().replace("emerg", "")


def test_file_of_the_checkpoint_is_the_one_of_the_package(tmp_path: Path) -> None:
    merging().save_pretrained(tmp_path)
    assert (tmp_path / "modeling_hf_vbp.py").read_bytes() == Path(modeling_hf_vbp.__file__).read_bytes()
    assert json.loads((tmp_path / "config.json").read_text())["vbp"] == RECORD

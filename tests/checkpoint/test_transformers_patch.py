"""Loading of pruned checkpoints by transformers with hf_vbp imported, and models that must not be affected."""

import copy
import gc
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForMaskedImageModeling,
    DeiTForImageClassification,
    PreTrainedConfig,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
    ViTForImageClassification,
    ViTImageProcessor,
    pipeline,
)

import hf_vbp
from hf_vbp.errors import CheckpointError
from hf_vbp.modeling.modeling_hf_vbp import find_mlps
from tests.checkpoint.helpers import (
    UNIFORM,
    WIDTHS,
    assert_same_outputs,
    assert_whole,
    change_config,
    make_pruned,
    outputs,
    read_config,
    widths_of,
)
from tests.conftest import make_model

KINDS = ["vit", "deit", "deit-teacher"]
DTYPES = [torch.float32, torch.bfloat16]
AMBIGUOUS = "per-layer attribute"


@pytest.fixture
def pruned() -> Any:
    return make_pruned()


@pytest.fixture
def folder(pruned: Any, tmp_path: Path) -> Path:
    pruned.save_pretrained(tmp_path / "pruned")
    return tmp_path / "pruned"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
class TestEachClassAndDtype:
    def test_native_remote_and_scoped_loading(self, kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
        model = make_pruned(kind, dtype=dtype)
        model.save_pretrained(tmp_path)
        assert_whole(tmp_path, WIDTHS)
        native = AutoModelForImageClassification.from_pretrained(tmp_path)
        assert type(native) is type(model)
        assert_same_outputs(native, model)
        assert_same_outputs(type(model).from_pretrained(tmp_path, dtype=dtype), model)
        remote = AutoModelForImageClassification.from_pretrained(tmp_path, trust_remote_code=True)
        assert type(remote) is not type(model)
        assert isinstance(remote, type(model))
        assert_same_outputs(remote, model)
        hf_vbp.unpatch_transformers()
        assert_same_outputs(hf_vbp.from_pretrained(tmp_path), model)

    def test_second_and_third_save(self, kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
        model = make_pruned(kind, dtype=dtype)
        model.save_pretrained(tmp_path / "0")
        for trust in (False, True):
            loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "0", trust_remote_code=trust)
            loaded.save_pretrained(tmp_path / f"{trust}")
            assert_whole(tmp_path / f"{trust}", WIDTHS)
            assert "AutoModelForImageClassification" in read_config(tmp_path / f"{trust}")["auto_map"]
            again = AutoModelForImageClassification.from_pretrained(tmp_path / f"{trust}", trust_remote_code=not trust)
            assert_same_outputs(again, model)

    def test_uniform_widths_are_stock(self, kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
        model = make_pruned(kind, UNIFORM, dtype=dtype)
        model.save_pretrained(tmp_path)
        config = read_config(tmp_path)
        assert config["intermediate_size"] == UNIFORM[0]
        assert not {"vbp", "per_layer_config", "auto_map"} & config.keys()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
        hf_vbp.unpatch_transformers()
        assert_same_outputs(AutoModelForImageClassification.from_pretrained(tmp_path), model)


@pytest.mark.parametrize("trust", [False, True])
class TestWaysIn:
    def test_backbone(self, pruned: Any, folder: Path, trust: bool) -> None:
        backbone = AutoModel.from_pretrained(folder, trust_remote_code=trust, add_pooling_layer=False)
        expected = outputs(pruned.vit)["last_hidden_state"]
        assert torch.equal(outputs(backbone)["last_hidden_state"], expected)

    def test_saved_backbone(self, tmp_path: Path, trust: bool) -> None:
        model = make_pruned("vit-backbone")
        model.save_pretrained(tmp_path / "0")
        loaded = AutoModel.from_pretrained(tmp_path / "0", trust_remote_code=trust)
        assert_same_outputs(loaded, model)
        loaded.save_pretrained(tmp_path / "1")
        assert_whole(tmp_path / "1", WIDTHS)
        assert_same_outputs(AutoModel.from_pretrained(tmp_path / "1", trust_remote_code=not trust), model)

    def test_other_head(self, folder: Path, trust: bool) -> None:
        model = AutoModelForMaskedImageModeling.from_pretrained(folder, trust_remote_code=trust)
        assert widths_of(model) == WIDTHS
        # The pooler is new, and must not be treated as tied to the empty tensors of the MLP of width 0.
        backbone = AutoModel.from_pretrained(folder, trust_remote_code=trust)
        assert backbone.pooler.dense.weight.shape == (32, 32)
        assert backbone.pooler.dense.weight.std() > 0

    def test_new_number_of_labels(self, pruned: Any, folder: Path, trust: bool) -> None:
        model, info = AutoModelForImageClassification.from_pretrained(
            folder, num_labels=7, ignore_mismatched_sizes=True, trust_remote_code=trust, output_loading_info=True
        )
        assert {entry[0] for entry in info["mismatched_keys"]} == {"classifier.weight", "classifier.bias"}
        assert not info["missing_keys"]
        for name, parameter in model.vit.named_parameters():
            assert torch.equal(parameter, pruned.vit.get_parameter(name)), name
        assert model.classifier.out_features == 7

    def test_device_map(self, pruned: Any, folder: Path, trust: bool) -> None:
        model = AutoModelForImageClassification.from_pretrained(folder, device_map="auto", trust_remote_code=trust)
        assert_same_outputs(model.to("cpu"), pruned)

    def test_sharded(self, pruned: Any, tmp_path: Path, trust: bool) -> None:
        pruned.save_pretrained(tmp_path, max_shard_size="40KB")
        assert len(list(tmp_path.glob("*.safetensors"))) > 1
        assert_same_outputs(AutoModelForImageClassification.from_pretrained(tmp_path, trust_remote_code=trust), pruned)

    def test_state_dict_and_loading_info(self, pruned: Any, folder: Path, trust: bool) -> None:
        model, info = AutoModelForImageClassification.from_pretrained(
            folder, output_loading_info=True, trust_remote_code=trust
        )
        assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert_same_outputs(model, pruned)

    def test_from_config(self, folder: Path, trust: bool) -> None:
        config = AutoConfig.from_pretrained(folder)
        config.name_or_path = str(folder)
        model = AutoModelForImageClassification.from_config(config, trust_remote_code=trust)
        assert widths_of(model) == WIDTHS
        assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
        assert 0.01 < find_mlps(model)[2].ups[0].weight.std() < 0.03
        with pytest.raises(RuntimeError, match=AMBIGUOUS):
            _ = config.intermediate_size

    def test_pipeline(self, pruned: Any, folder: Path, trust: bool) -> None:
        processor = ViTImageProcessor(size={"height": 32, "width": 32})
        processor.save_pretrained(folder)
        image = Image.new("RGB", (40, 40), (10, 200, 60))
        pipe = pipeline("image-classification", model=str(folder), device="cpu", trust_remote_code=trust)
        assert widths_of(pipe.model) == WIDTHS
        with torch.no_grad():
            expected = pruned(**processor(image, return_tensors="pt")).logits.softmax(-1).max()
        assert pipe(image)[0]["score"] == pytest.approx(float(expected), abs=1e-6)

    def test_trainer_trains_and_saves(self, folder: Path, tmp_path: Path, trust: bool) -> None:
        model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=trust)
        arguments = TrainingArguments(
            output_dir=str(tmp_path), use_cpu=True, report_to="none", max_steps=1, save_steps=1, disable_tqdm=True
        )
        data = [{"pixel_values": torch.randn(3, 32, 32), "labels": label} for label in range(4)]
        trainer = Trainer(model=model, args=arguments, train_dataset=data)
        trainer.train()
        trainer.save_model(str(tmp_path / "trained"))
        for name in ("checkpoint-1", "trained"):
            assert_whole(tmp_path / name, WIDTHS)
            assert_same_outputs(AutoModelForImageClassification.from_pretrained(tmp_path / name), model)

    def test_copy_and_pickle(self, pruned: Any, folder: Path, trust: bool) -> None:
        model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=trust)
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert_same_outputs(other, pruned)
            assert other.config.vbp == pruned.config.vbp


class TestModelInMemory:
    def test_copy_and_pickle(self, pruned: Any, tmp_path: Path) -> None:
        for number, other in enumerate((copy.deepcopy(pruned), pickle.loads(pickle.dumps(pruned)))):
            assert_same_outputs(other, pruned)
            other.save_pretrained(tmp_path / str(number))
            assert_whole(tmp_path / str(number), WIDTHS)

    def test_config_records_each_width(self, pruned: Any) -> None:
        assert [layer.intermediate_size for layer in pruned.config.per_layer_config] == WIDTHS
        assert pruned.config.vbp["widths"] == WIDTHS
        with pytest.raises(RuntimeError, match=AMBIGUOUS):
            _ = pruned.config.intermediate_size

    @pytest.mark.parametrize("enabled", [True, False])
    def test_no_auto_map_in_memory(self, pruned: Any, folder: Path, enabled: bool, tmp_path: Path) -> None:
        loaded = hf_vbp.from_pretrained(folder)
        for number, model in enumerate((pruned, loaded)):
            if not enabled:
                hf_vbp.unpatch_transformers()
            assert not hasattr(model.config, "auto_map")
            model.save_pretrained(tmp_path / str(number))
            assert_whole(tmp_path / str(number), WIDTHS)
            assert ("auto_map" in read_config(tmp_path / str(number))) is enabled
            assert not hasattr(model.config, "auto_map")

    def test_others_in_auto_map_are_kept(self, pruned: Any, tmp_path: Path) -> None:
        pruned.config.auto_map = {"AutoImageProcessor": "own.Processor"}
        pruned.save_pretrained(tmp_path / "0")
        assert pruned.config.auto_map == {"AutoImageProcessor": "own.Processor"}
        loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "0")
        assert loaded.config.auto_map == {"AutoImageProcessor": "own.Processor"}

    def test_config_alone(self, folder: Path, tmp_path: Path) -> None:
        AutoConfig.from_pretrained(folder).save_pretrained(tmp_path / "config")
        assert_whole(tmp_path / "config", WIDTHS)


class TestOthersAreLeftAlone:
    def test_dense_model_next_to_a_pruned_one(self, pruned: Any, folder: Path, tmp_path: Path) -> None:
        dense = make_model("vit", seed=3)
        dense.save_pretrained(tmp_path / "dense")
        assert sorted(path.name for path in (tmp_path / "dense").iterdir()) == ["config.json", "model.safetensors"]
        first = AutoModelForImageClassification.from_pretrained(folder)
        second = AutoModelForImageClassification.from_pretrained(tmp_path / "dense")
        assert_same_outputs(first, pruned)
        assert_same_outputs(second, dense)
        assert second.config.intermediate_size == 48
        assert_same_outputs(hf_vbp.from_pretrained(tmp_path / "dense"), dense)

    def test_foreign_record(self, tmp_path: Path) -> None:
        dense = make_model("vit")
        dense.config.vbp = "a key of another tool"
        dense.save_pretrained(tmp_path)
        assert_same_outputs(AutoModelForImageClassification.from_pretrained(tmp_path), dense)
        assert "auto_map" not in read_config(tmp_path)

    def test_enable_twice_disable_once(self) -> None:
        hf_vbp.unpatch_transformers()
        places = [(PreTrainedModel, name) for name in ("__init__", "post_init", "_finalize_model_loading")]
        places.append((PreTrainedConfig, "save_pretrained"))
        originals = [owner.__dict__[name] for owner, name in places]
        hf_vbp.patch_transformers()
        wrapped = [owner.__dict__[name] for owner, name in places]
        assert all(new is not old for new, old in zip(wrapped, originals, strict=True))
        hf_vbp.patch_transformers()
        assert [owner.__dict__[name] for owner, name in places] == wrapped
        hf_vbp.unpatch_transformers()
        assert [owner.__dict__[name] for owner, name in places] == originals

    def test_wrapped_by_another_library(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        ours = PreTrainedModel.post_init
        monkeypatch.setattr(PreTrainedModel, "post_init", lambda self: ours(self))
        hf_vbp.unpatch_transformers()
        with pytest.raises(RuntimeError, match=AMBIGUOUS):
            AutoModelForImageClassification.from_pretrained(folder)
        hf_vbp.patch_transformers()
        assert widths_of(AutoModelForImageClassification.from_pretrained(folder)) == WIDTHS

    def test_scoped_loading_leaves_nothing(self, folder: Path) -> None:
        hf_vbp.unpatch_transformers()
        before = PreTrainedModel.__dict__["post_init"]
        hf_vbp.from_pretrained(folder)
        with pytest.raises(CheckpointError):
            hf_vbp.from_pretrained(folder / "nowhere")
        assert PreTrainedModel.__dict__["post_init"] is before

    def test_error_inside_a_constructor(self, monkeypatch: pytest.MonkeyPatch) -> None:
        config = make_pruned().config
        before = config.to_json_string()

        def fail(*_: object) -> None:
            raise KeyError("inside")

        with monkeypatch.context() as patch:
            patch.setattr("torch.nn.LayerNorm.reset_parameters", fail)
            with pytest.raises(KeyError, match="inside"):
                ViTForImageClassification(config)
        gc.collect()
        assert config.to_json_string() == before
        with pytest.raises(RuntimeError, match=AMBIGUOUS):
            _ = config.intermediate_size
        assert widths_of(ViTForImageClassification(config)) == WIDTHS


class TestLoudFailures:
    def test_without_hook_and_trust(self, folder: Path) -> None:
        hf_vbp.unpatch_transformers()
        for options in ({}, {"ignore_mismatched_sizes": True}):
            with pytest.raises(RuntimeError, match=AMBIGUOUS):
                AutoModelForImageClassification.from_pretrained(folder, **options)

    @pytest.mark.parametrize("options", [{}, {"ignore_mismatched_sizes": True}, {"num_labels": 7}])
    @pytest.mark.parametrize("load", [AutoModelForImageClassification.from_pretrained, hf_vbp.from_pretrained])
    def test_widths_that_disagree_with_the_weights(self, folder: Path, options: dict[str, Any], load: Any) -> None:
        change_config(folder, vbp={"version": 1, "widths": [11, 0, 36]})
        with pytest.raises(CheckpointError, match=r"36 neurons for MLP 2.*\(37, 32\).*do not belong together"):
            load(folder, **options)

    def test_remote_code_with_widths_that_disagree(self, folder: Path) -> None:
        change_config(folder, vbp={"version": 1, "widths": [11, 0, 36]})
        hf_vbp.unpatch_transformers()
        with pytest.raises(ValueError, match="36 neurons for MLP 2"):
            AutoModelForImageClassification.from_pretrained(
                folder, trust_remote_code=True, ignore_mismatched_sizes=True
            )
        with pytest.raises(RuntimeError, match="size"):
            AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)

    @pytest.mark.parametrize("widths", [[11, 0], [11, 0, 37, 5]])
    def test_another_number_of_widths(self, folder: Path, widths: list[int]) -> None:
        change_config(folder, vbp={"version": 1, "widths": widths})
        with pytest.raises(CheckpointError, match=f"widths for {len(widths)} MLPs, but ViTForImageCl.* has 3"):
            AutoModelForImageClassification.from_pretrained(folder)

    @pytest.mark.parametrize("record", [{"version": 9, "widths": WIDTHS}, {"version": 1, "widths": "many"}])
    def test_damaged_record(self, folder: Path, record: dict[str, Any]) -> None:
        change_config(folder, vbp=record)
        for load in (AutoModelForImageClassification.from_pretrained, hf_vbp.from_pretrained):
            with pytest.raises(CheckpointError, match=r"config\.vbp"):
                load(folder)

    def test_lost_record(self, folder: Path) -> None:
        change_config(folder, vbp=None)
        with pytest.raises(RuntimeError, match=AMBIGUOUS):
            AutoModelForImageClassification.from_pretrained(folder)
        with pytest.raises(CheckpointError, match=AMBIGUOUS):
            hf_vbp.from_pretrained(folder)

    def test_missing_mlp_weights(self, pruned: Any, tmp_path: Path) -> None:
        state = {name: value for name, value in pruned.state_dict().items() if "layers.2.mlp.fc1.weight" not in name}
        pruned.save_pretrained(tmp_path, state_dict=state)
        for load in (AutoModelForImageClassification.from_pretrained, hf_vbp.from_pretrained):
            with pytest.raises(CheckpointError, match=r"MLP 2.*are missing"):
                load(tmp_path)

    def test_other_missing_weights(self, pruned: Any, tmp_path: Path) -> None:
        state = {name: value for name, value in pruned.state_dict().items() if "cls_token" not in name}
        pruned.save_pretrained(tmp_path, state_dict=state)
        expected = r"lacks 1 weights \(vit\..*cls_token\) of ViTForImageClassification"
        with pytest.raises(CheckpointError, match=expected):
            hf_vbp.from_pretrained(tmp_path, ignore_mismatched_sizes=True)

    def test_head_of_another_class(self, tmp_path: Path) -> None:
        make_pruned("deit-teacher").save_pretrained(tmp_path)
        with pytest.raises(CheckpointError, match=r"lacks 2 weights.*DeiTForImageClassificationWithTeacher"):
            hf_vbp.from_pretrained(tmp_path, auto_class=DeiTForImageClassification)
        fresh = hf_vbp.from_pretrained(tmp_path, auto_class=DeiTForImageClassification, ignore_mismatched_sizes=True)
        assert widths_of(fresh) == WIDTHS

    def test_backbone_of_a_classifier(self, folder: Path) -> None:
        assert widths_of(hf_vbp.from_pretrained(folder, auto_class=AutoModel)) == WIDTHS

    @pytest.mark.parametrize("damage", ["no folder", "no config", "config", "weights", "truncated", "no weights"])
    def test_unreadable_checkpoint(self, folder: Path, damage: str) -> None:
        weights = folder / "model.safetensors"
        if damage == "no config":
            (folder / "config.json").unlink()
        elif damage == "config":
            (folder / "config.json").write_text("{", encoding="utf-8")
        elif damage == "weights":
            weights.write_bytes(b"not tensors")
        elif damage == "truncated":
            weights.write_bytes(weights.read_bytes()[:-100])
        elif damage == "no weights":
            weights.unlink()
        path = folder / "nowhere" if damage == "no folder" else folder
        with pytest.raises(CheckpointError, match=f"{path} cannot be loaded"):
            hf_vbp.from_pretrained(path)

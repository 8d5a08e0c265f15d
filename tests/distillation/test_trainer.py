import copy
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

import hf_vbp
from hf_vbp.distillation.trainer import next_batch_size
from hf_vbp.errors import CheckpointError, ConfigurationError, LabelError, NonFiniteError
from tests.conftest import make_model
from tests.distillation.helpers import (
    DENSE,
    Images,
    arguments,
    assert_same_parameters,
    cosine,
    log_of,
    loss_by_hand,
    make_student,
    make_teacher,
    make_trainer,
    parameters_of,
)


def train_by_hand(trainer: Any, order: list[list[int]], *, weight: float, temperature: float) -> list[float]:
    """Train a copy with AdamW on batches of images by number, from the definition of everything; return its losses."""
    images, model, teacher = Images(), make_student(), make_teacher()
    model.train()
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for n, p in model.named_parameters() if "bias" not in n and "norm" not in n.lower()]},
            {
                "params": [p for n, p in model.named_parameters() if "bias" in n or "norm" in n.lower()],
                "weight_decay": 0.0,
            },
        ],
        lr=1e-2,
        eps=1e-4,
        weight_decay=0.01,
    )
    losses = []
    for step, batch in enumerate(order):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * cosine(step, len(order))
        pixels, labels = images.pixel_values[batch], images.labels[batch]
        with torch.no_grad():
            soft = teacher(pixel_values=pixels).logits
        loss = loss_by_hand(model(pixel_values=pixels).logits, soft, labels, weight, temperature)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert_same_parameters(trainer.model, parameters_of(model), tolerance=1e-5)
    return losses


@pytest.mark.parametrize(("batch", "accumulation"), [(16, 1), (4, 4), (8, 2)])
def test_training_equals_its_definition_for_any_division_of_a_step(
    tmp_path: Path, batch: int, accumulation: int
) -> None:
    trainer = make_trainer(
        tmp_path,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        train_sampling_strategy="sequential",
        hard_label_weight=0.3,
        temperature=2.0,
    )
    trainer.train()
    order = 2 * [list(range(16)), list(range(16, 32))]
    expected = train_by_hand(trainer, order, weight=0.3, temperature=2.0)
    assert log_of(trainer, "loss") == pytest.approx(expected, rel=1e-4)


def test_every_image_counts_the_same_where_micro_batches_are_unequal(tmp_path: Path) -> None:
    whole = make_trainer(tmp_path, train_dataset=Images(10), per_device_train_batch_size=10)
    cut = make_trainer(
        tmp_path, train_dataset=Images(10), per_device_train_batch_size=4, gradient_accumulation_steps=3
    )
    for trainer in (whole, cut):
        trainer.train()
    assert log_of(cut, "loss") == pytest.approx(log_of(whole, "loss"), rel=1e-5)
    assert_same_parameters(cut.model, parameters_of(whole.model), tolerance=1e-5)


def test_the_parts_of_the_loss_are_logged_and_add_up(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, hard_label_weight=0.3, logging_steps=2, gradient_accumulation_steps=2)
    trainer.train()
    hard, soft, loss = (log_of(trainer, key) for key in ("hard_loss", "soft_loss", "loss"))
    assert len(loss) == 2
    assert [0.3 * h + 0.7 * s for h, s in zip(hard, soft, strict=True)] == pytest.approx(loss, rel=1e-5)


def test_the_teacher_is_not_changed_and_not_saved(tmp_path: Path) -> None:
    teacher = make_teacher()
    before = parameters_of(teacher)
    trainer = make_trainer(tmp_path, teacher=teacher)
    trainer.train()
    assert_same_parameters(teacher, before)
    assert all(p.requires_grad and p.grad is None for p in teacher.parameters())
    trainer.save_model(str(tmp_path / "out"))
    saved = hf_vbp.from_pretrained(tmp_path / "out")
    assert_same_parameters(saved, parameters_of(trainer.model))
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"config.json", "model.safetensors", "training_args.bin", "modeling_hf_vbp.py"}


def test_evaluation_reads_labels_only(tmp_path: Path) -> None:
    images = Images(11)
    trainer = make_trainer(tmp_path, eval_dataset=images)
    trainer._teacher = None
    found = trainer.evaluate()
    with torch.no_grad():
        logits = trainer.model.eval()(pixel_values=images.pixel_values).logits
    assert found["eval_top1"] == pytest.approx((logits.argmax(-1) == images.labels).float().mean().item())
    expected = torch.nn.functional.cross_entropy(logits, images.labels).item()
    assert found["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_both_heads_are_trained_and_predict_with_their_mean(tmp_path: Path) -> None:
    images = Images(8)
    trainer = make_trainer(tmp_path, kind="deit-teacher", eval_dataset=images)
    before = parameters_of(trainer.model)
    trainer.train()
    for name in ("cls_classifier.weight", "distillation_classifier.weight"):
        assert not torch.equal(before[name], dict(trainer.model.named_parameters())[name])
    predictions = trainer.predict(images).predictions
    with torch.no_grad():
        outputs = trainer.model.eval()(pixel_values=images.pixel_values)
    mean = (outputs.cls_logits + outputs.distillation_logits) / 2
    assert torch.allclose(torch.tensor(predictions), mean, atol=1e-5)


@pytest.mark.parametrize("weight", [0, 1])
def test_a_head_that_would_not_be_trained_is_refused(tmp_path: Path, weight: int) -> None:
    with pytest.raises(ConfigurationError, match="head of DeiTForImageClassificationWithTeacher untrained"):
        make_trainer(tmp_path, kind="deit-teacher", hard_label_weight=weight)


@pytest.mark.parametrize("kind", ["vit", "deit", "deit-teacher"])
def test_the_best_model_is_restored_whole(tmp_path: Path, kind: str) -> None:
    trainer = make_trainer(
        tmp_path,
        kind=kind,
        eval_dataset=Images(8),
        eval_strategy="epoch",
        save_strategy="epoch",
        num_train_epochs=3,
        load_best_model_at_end=True,
        metric_for_best_model="epoch_of_my_choice",
        greater_is_better=True,
    )
    seen: list[dict[str, torch.Tensor]] = []

    def choose_the_second(_: Any) -> dict[str, float]:
        seen.append(parameters_of(trainer.model))
        return {"epoch_of_my_choice": float(len(seen) == 2)}

    trainer.compute_metrics = choose_the_second
    trainer.train()
    assert len(seen) == 3
    assert not torch.equal(
        seen[1]["classifier.weight" if kind != "deit-teacher" else "cls_classifier.weight"],
        seen[2]["classifier.weight" if kind != "deit-teacher" else "cls_classifier.weight"],
    )
    assert_same_parameters(trainer.model, seen[1])


def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = make_trainer(tmp_path / "whole")
    whole.train()
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 3}
    make_trainer(tmp_path / "cut", **options).train()
    again = make_trainer(tmp_path / "cut", **options)
    (tmp_path / "cut" / "checkpoint-8" / "trainer_state.json").write_text('{"global_', encoding="utf-8")
    (tmp_path / "cut" / "checkpoint-9").mkdir()
    again.train(resume_from_checkpoint=True)
    assert again.state.log_history[-1]["step"] == 8
    assert_same_parameters(again.model, parameters_of(whole.model))


def test_resuming_from_another_trainers_checkpoint_is_refused(tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    model, images = make_model("vit"), Images(8)
    args = TrainingArguments(
        str(tmp_path), use_cpu=True, disable_tqdm=True, report_to="none", max_steps=1, dataloader_pin_memory=False
    )
    Trainer(model, args, train_dataset=images).train()
    trainer = make_trainer(tmp_path, model=make_model("vit", seed=2))
    with pytest.raises(CheckpointError, match="written by another Trainer"):
        trainer.train(resume_from_checkpoint=True)


def test_there_must_be_something_to_resume_from(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        make_trainer(tmp_path).train(resume_from_checkpoint=True)


def test_cached_logits_give_the_same_run_without_the_teacher(tmp_path: Path) -> None:
    live, cached = make_trainer(tmp_path), make_trainer(tmp_path, cache_teacher_logits=True)
    live.train()
    cached.train()
    assert log_of(cached, "loss") == pytest.approx(log_of(live, "loss"), rel=1e-5)
    assert_same_parameters(cached.model, parameters_of(live.model), tolerance=1e-5)


class Noisy(Images):
    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**super().__getitem__(index), "pixel_values": torch.randn(3, 32, 32)}


class NoisyByEpoch(Images):
    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**super().__getitem__(index), "pixel_values": self.pixel_values[index] + self.epoch}


@pytest.mark.parametrize("images", [Noisy(), NoisyByEpoch()])
def test_images_that_change_are_not_cached(tmp_path: Path, images: Images) -> None:
    with pytest.raises(ConfigurationError, match="augmented at random"):
        make_trainer(tmp_path, train_dataset=images, cache_teacher_logits=True).train()


def test_an_mlp_without_neurons_trains(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, model=make_student(widths=[0, 24, 37]))
    trainer.train()
    assert all(map(math.isfinite, log_of(trainer, "loss")))


def test_labels_are_not_needed_where_they_have_no_weight(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, train_dataset=Images(labelled=False), hard_label_weight=0.0)
    trainer.train()
    assert log_of(trainer, "loss")[-1] < log_of(trainer, "loss")[0]


def test_a_loss_that_is_not_finite_stops_the_run_at_its_step(tmp_path: Path) -> None:
    images = Images()
    images.pixel_values[17] = math.nan
    trainer = make_trainer(tmp_path, train_dataset=images, train_sampling_strategy="sequential")
    with pytest.raises(NonFiniteError, match=r"not finite at step 3 \(hard nan, soft nan; .*learning_rate"):
        trainer.train()


def test_running_out_of_memory_halves_the_batch_and_keeps_the_step(tmp_path: Path) -> None:
    plain = make_trainer(tmp_path, per_device_train_batch_size=8)
    plain.train()
    trainer = make_trainer(tmp_path, per_device_train_batch_size=8, auto_find_batch_size=True)
    compute, seen = trainer.compute_loss, []

    def full_at_the_third_step(model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        seen.append(len(inputs["labels"]))
        if len(inputs["labels"]) > 2 and seen.count(len(inputs["labels"])) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return compute(model, inputs, *args, **options)

    trainer.compute_loss = full_at_the_third_step
    trainer.train()
    assert list(dict.fromkeys(seen)) == [8, 4, 2]
    assert trainer.args.gradient_accumulation_steps == 4
    assert trainer.state.global_step == plain.state.global_step
    assert_same_parameters(trainer.model, parameters_of(plain.model), tolerance=1e-4)


def test_batch_sizes_shrink_to_divisors() -> None:
    assert [next_batch_size(size) for size in (32, 12, 6, 3, 2, 1)] == [16, 6, 3, 1, 1, 0]


def test_teachers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    student = make_student()
    with pytest.raises(ConfigurationError, match="shares weights"):
        make_trainer(tmp_path, model=student, teacher=student)
    with pytest.raises(LabelError, match="7 labels, the model 5"):
        make_trainer(tmp_path, teacher=make_model(num_labels=7))
    named = make_student()
    named.config.id2label = dict(enumerate("abcde"))
    make_trainer(tmp_path, model=named)
    other = make_teacher()
    other.config.id2label = {**other.config.id2label, 2: "crane"}
    with pytest.raises(LabelError, match="2 is 'LABEL_2' in the model and 'crane' in the teacher"):
        make_trainer(tmp_path, teacher=other)
    with pytest.raises(ConfigurationError, match="image_size 64, the model 32"):
        make_trainer(tmp_path, teacher=make_model(image_size=64))
    with pytest.raises(ConfigurationError, match="there is no teacher"):
        make_trainer(tmp_path, teacher=None, cache_teacher_logits=True)


def test_a_dtype_of_the_teacher_leaves_the_callers_model(tmp_path: Path) -> None:
    teacher = make_teacher()
    trainer = make_trainer(tmp_path, teacher=teacher, teacher_dtype="bfloat16")
    trainer.train()
    assert next(teacher.parameters()).dtype == torch.float32
    assert trainer._teacher.dtype == torch.bfloat16
    assert all(map(math.isfinite, log_of(trainer, "soft_loss")))


def test_the_defaults_are_the_papers_recipe(tmp_path: Path) -> None:
    args = arguments(tmp_path)
    names = {"learning_rate", "per_device_train_batch_size", "num_train_epochs"}
    default = {name: field.default for name, field in type(args).__dataclass_fields__.items()}
    assert {name: default[name] for name in names} == {
        "learning_rate": 1.5e-5,
        "per_device_train_batch_size": 32,
        "num_train_epochs": 10,
    }
    assert (args.weight_decay, args.lr_scheduler_type, args.optim) == (0.01, "cosine", "adamw_torch_fused")


def test_the_student_keeps_its_widths(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.train()
    assert trainer.model.config.vbp["dense_widths"] == DENSE


def test_the_token_reaches_no_file_and_no_pickle_but_copies(tmp_path: Path) -> None:
    token = "hf_" + "a1" * 17
    trainer = make_trainer(tmp_path, num_train_epochs=1, save_strategy="epoch", hub_token=token)
    trainer.train()
    trainer.save_model()
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"training_args.bin", "trainer_state.json"} <= {path.name for path in written}
    assert [path for path in written if token.encode() in path.read_bytes()] == []
    assert trainer.args.hub_token == token
    restored = pickle.loads(pickle.dumps(trainer.args))
    assert restored.hub_token is None
    assert restored.learning_rate == trainer.args.learning_rate
    assert copy.deepcopy(trainer.args).hub_token == copy.copy(trainer.args).hub_token == token
    assert copy.deepcopy(trainer.args) == trainer.args

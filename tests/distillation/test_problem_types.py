"""One label, several labels or numbers for each image, against the model's own loss and definitions written out."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from hf_vbp.distillation.losses import DistillationLoss, Heads
from hf_vbp.distillation.metrics import accuracy, metrics_for
from hf_vbp.distillation.tasks import problem_type
from hf_vbp.errors import ConfigurationError, LabelError
from tests.conftest import make_model
from tests.distillation.helpers import Images, log_of, make_trainer

MULTI = {"problem_type": "multi_label_classification"}
SCORE = {"num_labels": 1}


class Targets(Images):
    """Images with given labels."""

    def __init__(self, targets: torch.Tensor) -> None:
        super().__init__(len(targets))
        self.targets = targets

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixel_values": self.pixel_values[index], "labels": self.targets[index]}


def several(count: int = 16) -> torch.Tensor:
    return torch.tensor([[1.0, i % 2, i % 3 == 0, 0.0, i % 5 == 0] for i in range(count)])


def first_loss(folder: Path, model: Any, teacher: Any, images: Any, **settings: Any) -> float:
    trainer = make_trainer(
        folder,
        model=model,
        teacher=teacher,
        train_dataset=images,
        max_steps=1,
        per_device_train_batch_size=len(images),
        **settings,
    )
    trainer.train()
    return log_of(trainer, "loss")[0]


@pytest.mark.parametrize(
    ("changes", "targets"),
    [
        (MULTI, several()),
        (SCORE, torch.linspace(-2, 3, 16)),
        ({**SCORE, "problem_type": "regression"}, torch.ones(16, 1)),
    ],
)
def test_the_loss_against_labels_is_that_of_the_model(
    tmp_path: Path, changes: dict[str, Any], targets: torch.Tensor
) -> None:
    model, images = make_model(**changes), Targets(targets)
    with torch.no_grad():
        expected = model(images.pixel_values, labels=targets).loss.item()
    assert expected > 0.1
    teacher = make_model(seed=1, **changes)
    assert first_loss(tmp_path, model, teacher, images, hard_label_weight=1.0) == pytest.approx(expected, rel=1e-4)
    fresh = make_model(**changes)
    assert first_loss(tmp_path, fresh, None, images) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", ["kl", "cross_entropy"])
def test_the_loss_against_a_teacher_with_several_labels_is_the_binary_divergence(kind: str) -> None:
    student, teacher = (3 * torch.randn(6, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    loss = DistillationLoss(0.0, 2.0, kind)
    parts = loss.parts(Heads(student, student, student), teacher, None, "multi_label_classification")
    total = 0.0
    for s, t in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True):
        p, q = 1 / (1 + math.exp(-t / 2)), 1 / (1 + math.exp(-s / 2))
        total -= p * math.log(q) + (1 - p) * math.log(1 - q)
        total += p * math.log(p) + (1 - p) * math.log(1 - p) if kind == "kl" else 0.0
    assert parts.soft.item() == pytest.approx(4 * total / student.numel(), rel=1e-4)


def test_the_loss_against_a_teacher_of_a_regression_is_the_squared_difference() -> None:
    student, teacher = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [5.0]])
    parts = DistillationLoss(0.0, 3.0).parts(Heads(student, student, student), teacher, None, "regression")
    assert parts.soft.item() == 5.0


@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
def test_unknown_labels_count_nothing_however_a_step_is_cut(tmp_path: Path, weight: float) -> None:
    images = Images(16)
    for index in (1, 2, 12, 13, 14, 15):
        images.labels[index] = -100
    options: dict[str, Any] = {
        "train_dataset": images,
        "hard_label_weight": weight,
        "max_steps": 2,
        "train_sampling_strategy": "sequential",
    }
    whole = make_trainer(tmp_path, per_device_train_batch_size=16, **options)
    cut = make_trainer(tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=4, **options)
    model, teacher = whole.model, whole._teacher
    with torch.no_grad():
        student, soft = model.train()(images.pixel_values).logits, teacher(images.pixel_values)
    known = images.labels != -100
    hard = functional.cross_entropy(student[known], images.labels[known])
    divergence = (soft / 2).softmax(-1) * ((soft / 2).log_softmax(-1) - (student / 2).log_softmax(-1))
    expected = weight * hard + (1 - weight) * 4 * divergence.sum(-1).mean()
    for trainer in (whole, cut):
        trainer.train()
    assert log_of(whole, "loss")[0] == pytest.approx(expected.item(), rel=1e-4)
    assert log_of(cut, "loss") == pytest.approx(log_of(whole, "loss"), rel=1e-4)
    if 0 < weight < 1:
        for key in ("hard_loss", "soft_loss"):
            assert log_of(cut, key) == pytest.approx(log_of(whole, key), rel=1e-4)


def test_unknown_labels_are_left_out_of_the_figures() -> None:
    logits, labels = np.array([[2.0, 0.0], [0.0, 1.0], [5.0, 0.0]]), np.array([0, 0, -100])
    found = accuracy(SimpleNamespace(predictions=logits, label_ids=labels))
    assert found == {
        "loss": pytest.approx((math.log1p(math.exp(-2)) + math.log1p(math.exp(1))) / 2),
        "top1": 0.5,
    }
    with pytest.raises(LabelError, match="All labels of the evaluation images are -100"):
        accuracy(SimpleNamespace(predictions=logits, label_ids=np.full(3, -100)))


def test_figures_of_other_problem_types() -> None:
    prediction = SimpleNamespace(
        predictions=np.array([[0.0, 2.0], [1.0, 0.0]]), label_ids=np.array([[1.0, -100.0], [0.0, 1.0]])
    )
    found = metrics_for("multi_label_classification")(prediction)
    expected = (math.log(2) + (math.log1p(math.exp(1)) + math.log(2)) / 2) / 2
    assert found == {"loss": pytest.approx(expected)}
    prediction = SimpleNamespace(predictions=np.array([[1.0], [3.0]]), label_ids=np.array([0.0, 1.0]))
    assert metrics_for("regression")(prediction) == {"loss": 2.5}


@pytest.mark.parametrize(("changes", "targets"), [(MULTI, several()), (SCORE, torch.linspace(-2, 3, 16))])
def test_evaluation_follows_the_problem_type(tmp_path: Path, changes: dict[str, Any], targets: torch.Tensor) -> None:
    model, images = make_model(**changes), Targets(targets)
    trainer = make_trainer(tmp_path, model=model, teacher=None, eval_dataset=images)
    with torch.no_grad():
        expected = model.eval()(images.pixel_values, labels=targets).loss.item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "targets", "message"),
    [
        ({}, several(), r"single_label_classification needs one class id .* or set config.problem_type"),
        ({"problem_type": "single_label_classification"}, torch.zeros(16), "needs one class id for each image"),
        (MULTI, torch.zeros(16, dtype=torch.int64), r"needs 0 or 1 for each label, \(images, 5\)"),
        (SCORE, torch.zeros(16, 2), r"regression needs 1 number"),
    ],
)
def test_labels_of_another_problem_type_are_refused(
    tmp_path: Path, changes: dict[str, Any], targets: torch.Tensor, message: str
) -> None:
    with pytest.raises(LabelError, match=message):
        first_loss(tmp_path, make_model(**changes), make_model(seed=1, **changes), Targets(targets))


def test_class_probabilities_need_a_named_problem_type(tmp_path: Path) -> None:
    probabilities = torch.rand(16, 5, generator=torch.Generator().manual_seed(0)).softmax(-1)
    model, images = make_model(problem_type="single_label_classification"), Targets(probabilities)
    with torch.no_grad():
        log_q = model(images.pixel_values).logits.log_softmax(-1)
    expected = -(probabilities * log_q).sum(-1).mean().item()
    assert first_loss(tmp_path, model, None, images) == pytest.approx(expected, rel=1e-4)


def test_problem_types_of_configs() -> None:
    assert problem_type(make_model().config) == "single_label_classification"
    assert problem_type(make_model(**SCORE).config) == "regression"
    assert problem_type(make_model(**MULTI).config) == "multi_label_classification"
    with pytest.raises(ConfigurationError, match=r"config\.problem_type is 'ranking'; expected one of single_label"):
        problem_type(SimpleNamespace(problem_type="ranking"))


def test_teacher_and_student_have_one_problem_type(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match="teacher is multi_label_classification, that of the model single_label"
    ):
        make_trainer(tmp_path, model=make_model(), teacher=make_model(seed=1, **MULTI))


class Pixelwise(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = make_model()
        self.config = self.inner.config

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.inner(pixel_values).logits[:, :, None, None].expand(-1, -1, 4, 4)}


def test_logits_for_each_pixel_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"logits of the shape \(8, 5, 4, 4\); expected \(images, labels\)"):
        make_trainer(tmp_path, model=Pixelwise(), teacher=None).train()


def test_a_loss_of_the_caller_is_refused(tmp_path: Path) -> None:
    from hf_vbp import DistillationTrainer
    from tests.distillation.helpers import arguments

    with pytest.raises(ConfigurationError, match=r"compute_loss_func is not supported.*Override compute_loss"):
        DistillationTrainer(make_model(), arguments(tmp_path), compute_loss_func=lambda *_: 0)


def test_students_made_by_model_init_are_checked_and_trained(tmp_path: Path) -> None:
    from hf_vbp import DistillationTrainer
    from tests.distillation.helpers import arguments

    in_order = {"train_sampling_strategy": "sequential"}

    def trainer(init: Any) -> Any:
        options = {"teacher": make_model(seed=1), "train_dataset": Images(16)}
        return DistillationTrainer(None, arguments(tmp_path, **in_order), model_init=init, **options)

    made = trainer(lambda: make_model())
    made.train()
    options: dict[str, Any] = {"model": make_model(), "teacher": make_model(seed=1), "train_dataset": Images(16)}
    plain = make_trainer(tmp_path, **options, **in_order)
    plain.train()
    assert log_of(made, "loss") == pytest.approx(log_of(plain, "loss"), rel=1e-5)
    with pytest.raises(LabelError, match="5 labels, the model 7"):
        trainer(lambda: make_model(num_labels=7))

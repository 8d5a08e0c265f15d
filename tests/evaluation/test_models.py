"""Several models on the same batches."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hf_vbp.errors import ConfigurationError, DataError, LabelError, NonFiniteError, UnsupportedModelError
from hf_vbp.evaluation.measures import wilson_interval
from hf_vbp.evaluation.models import Evaluation, evaluate_models
from tests.conftest import make_model

Batches = list[dict[str, torch.Tensor]]


class Fixed(nn.Module):
    """A model whose logits are the first pixels of the image."""

    def __init__(self, classes: int = 4, factor: float = 1.0, roll: int = 0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))
        self.classes, self.roll = classes, roll

    def forward(self, pixel_values: torch.Tensor) -> Any:
        assert not self.training
        logits = pixel_values[:, 0, 0, : self.classes].roll(self.roll, dims=-1)
        return SimpleNamespace(logits=logits * self.factor)


def images(*rows: list[float]) -> torch.Tensor:
    pixels = torch.zeros(len(rows), 3, 4, 8)
    pixels[:, 0, 0, : len(rows[0])] = torch.tensor(rows)
    return pixels


def test_figures_of_a_case_that_can_be_counted_by_hand() -> None:
    batches = [
        {"pixel_values": images([3, 2, 1, 0], [0, 1, 2, 3]), "labels": torch.tensor([0, 0])},
        {"pixel_values": images([0, 9, 0, 0]), "labels": torch.tensor([1])},
    ]
    found = evaluate_models({"dense": Fixed(), "rolled": Fixed(roll=1), "same": Fixed(factor=2.0)}, batches)
    dense, rolled, same = found["dense"], found["rolled"], found["same"]
    assert (dense.images, dense.top1, dense.top5) == (3, 2 / 3, 1.0)
    assert dense.top1_interval == wilson_interval(2, 3)
    assert (dense.agreement, dense.kl) == (None, None)
    assert (rolled.top1, rolled.agreement) == (1 / 3, 0.0)
    assert same.agreement == 1.0
    p = torch.stack([batch for b in batches for batch in b["pixel_values"][:, 0, 0, :4].double()]).log_softmax(-1)
    q = torch.stack([batch for b in batches for batch in b["pixel_values"][:, 0, 0, :4].double() * 2]).log_softmax(-1)
    assert same.kl == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-12)


def test_figures_of_real_logits_are_those_of_numpy(batches: Batches) -> None:
    dense, other = make_model(num_labels=9), make_model(seed=1, num_labels=9)
    labels = np.concatenate([batch["labels"].numpy() for batch in batches])
    with torch.inference_mode():
        p, q = (
            np.concatenate([model(pixel_values=batch["pixel_values"]).logits.double() for batch in batches])
            for model in (dense, other)
        )
    found = evaluate_models({"dense": dense, "other": other}, batches)
    order = np.argsort(-q, axis=1)
    assert found["other"].top1 == np.mean(order[:, 0] == labels)
    assert found["other"].top5 == np.mean([label in row for label, row in zip(labels, order[:, :5], strict=True)])
    assert found["other"].agreement == np.mean(order[:, 0] == p.argmax(axis=1))
    log_p, log_q = (x - np.log(np.exp(x).sum(axis=1, keepdims=True)) for x in (p, q))
    divergences = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    assert found["other"].kl == pytest.approx(divergences.mean(), rel=1e-10)
    half = 1.959964 * divergences.std(ddof=1) / 30**0.5
    assert found["other"].kl_interval == pytest.approx(
        (divergences.mean() - half, divergences.mean() + half), rel=1e-5
    )
    agreeing = int((order[:, 0] == p.argmax(axis=1)).sum())
    assert found["other"].agreement_interval == wilson_interval(agreeing, 30)
    assert found["dense"].top1 == np.mean(p.argmax(axis=1) == labels)


def test_a_model_compared_with_a_copy_agrees(vit: Any, batches: Batches) -> None:
    found = evaluate_models({"dense": vit, "pruned": make_model("vit")}, batches)
    assert (found["pruned"].agreement, found["pruned"].kl) == (1.0, 0.0)
    assert found["pruned"].top1 == found["dense"].top1
    assert found["dense"].images == 30


def test_the_teacher_model_and_other_dtypes_are_measured(batches: Batches) -> None:
    dense, half = make_model("deit-teacher"), make_model("deit-teacher", dtype=torch.bfloat16)
    found = evaluate_models({"dense": dense, "bf16": half}, batches)
    assert found["bf16"].kl is not None
    assert 0 < found["bf16"].kl < 0.01
    assert next(half.parameters()).dtype == torch.bfloat16


def test_without_labels_only_agreement_and_kl(vit: Any, batches: Batches) -> None:
    unlabelled = [{"pixel_values": batch["pixel_values"]} for batch in batches]
    found = evaluate_models({"dense": vit, "other": make_model(seed=1)}, unlabelled)
    assert found["dense"].to_dict() == {"images": 30}
    assert set(found["other"].to_dict()) == {"images", "agreement", "agreement_interval", "kl", "kl_interval"}


def test_without_a_reference_only_accuracies(vit: Any, batches: Batches) -> None:
    found = evaluate_models({"model": vit}, data=batches, reference=None)
    assert set(found["model"].to_dict()) == {"images", "top1", "top1_interval", "top5", "ece", "classes"}


def test_any_model_can_be_the_reference_and_modes_are_restored(batches: Batches) -> None:
    first, second = Fixed(5), Fixed(5)
    first.train()
    found = evaluate_models({"a": first, "b": second.eval()}, batches, reference="b", device="cpu")
    assert found["b"].agreement is None
    assert found["a"].agreement == 1.0
    assert (first.training, second.training) == (True, False)


def test_progress_counts_images(batches: Batches) -> None:
    seen: list[tuple[int, int | None]] = []
    evaluate_models({"dense": Fixed(5)}, batches, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(8, None), (16, None), (24, None), (29, None), (30, None)]
    loader = torch.utils.data.DataLoader(list(torch.zeros(6, 3, 4, 8)), batch_size=4, collate_fn=collate)  # type: ignore[arg-type]
    seen.clear()
    evaluate_models({"dense": Fixed(5)}, loader, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(4, 6), (6, 6)]


def collate(images: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.stack(images)}


def test_figures_have_the_keys_of_the_results() -> None:
    assert Evaluation(2, 0.5, (0.1, 0.9), 1.0, 0.5, 0.25).to_dict() == {
        "images": 2,
        "top1": 0.5,
        "top1_interval": [0.1, 0.9],
        "top5": 1.0,
        "agreement": 0.5,
        "kl": 0.25,
    }


def test_bad_input(vit: Any, batches: Batches) -> None:
    with pytest.raises(ConfigurationError, match=r"reference 'dense' is not among the models \(a\)"):
        evaluate_models({"a": vit}, batches)
    with pytest.raises(ConfigurationError, match="none were given"):
        evaluate_models({}, batches, reference=None)
    with pytest.raises(DataError, match="no images to evaluate"):
        evaluate_models({"dense": vit}, [])
    with pytest.raises(DataError, match=r"must be a dict with pixel_values, got one with \['x'\]"):
        evaluate_models({"dense": vit}, [{"x": 1}])
    with pytest.raises(LabelError, match="label 9 is beyond the 5 classes of dense"):
        evaluate_models({"dense": vit}, [batches[0] | {"labels": torch.full((8,), 9)}])
    with pytest.raises(LabelError, match="label -1 is"):
        evaluate_models({"dense": vit}, [batches[0] | {"labels": torch.full((8,), -1)}])
    backbones = {"dense": make_model("vit-backbone"), "other": make_model("vit-backbone", seed=1)}
    with pytest.raises(ConfigurationError, match="have labels, but ViTModel has no classes: pass labelled images"):
        evaluate_models(backbones, batches)
    with pytest.raises(ConfigurationError, match="b has 4 classes and dense 5"):
        evaluate_models({"dense": Fixed(5), "b": Fixed(4)}, [{"pixel_values": torch.zeros(2, 3, 4, 8)}])
    with pytest.raises(NonFiniteError, match="dense gives logits that are NaN"):
        evaluate_models({"dense": Fixed(5, factor=float("nan"))}, batches)


@pytest.mark.parametrize("kind", ["vit-backbone", "maps"])
def test_one_model_of_which_nothing_can_be_measured_alone_is_refused(kind: str, batches: Batches) -> None:
    model = Pixels() if kind == "maps" else make_model(kind)
    unlabelled = [{"pixel_values": batch["pixel_values"]} for batch in batches]
    for reference in (None, "model"):
        with pytest.raises(UnsupportedModelError, match="nothing can be measured without another model"):
            evaluate_models({"model": model}, unlabelled, reference=reference)


class Pixels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, pixel_values: torch.Tensor) -> Any:
        return SimpleNamespace(logits=pixel_values * self.factor)


def test_labels_that_do_not_belong_to_the_output_are_refused(vit: Any, batches: Batches) -> None:
    with pytest.raises(UnsupportedModelError, match=r"Pixels gives logits \(pixel_classes\), of which nothing"):
        evaluate_models({"dense": Pixels()}, batches)
    with pytest.raises(LabelError, match=r"Pixels gives logits \(pixel_classes\), which labels of images cannot be"):
        evaluate_models({"dense": Pixels(), "other": Pixels()}, batches)
    for labels in (torch.zeros(8, 5), torch.zeros(8, 5, dtype=torch.int64), torch.zeros(8)):
        with pytest.raises(LabelError, match="expected one class id for each image"):
            evaluate_models({"dense": vit}, [batches[0] | {"labels": labels}])


def test_a_model_that_fails_is_left_in_its_mode(batches: Batches) -> None:
    broken = Fixed(5, factor=float("nan")).train()
    with pytest.raises(NonFiniteError):
        evaluate_models({"dense": broken}, batches)
    assert broken.training

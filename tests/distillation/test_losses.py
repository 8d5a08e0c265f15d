import pytest
import torch

from hf_vbp.distillation.losses import DistillationLoss, Heads, read_heads
from hf_vbp.errors import ConfigurationError
from tests.distillation.helpers import loss_by_hand


def logits(seed: int) -> torch.Tensor:
    return 3 * torch.randn(6, 4, generator=torch.Generator().manual_seed(seed))


LABELS = torch.tensor([0, 3, 1, 1, 2, 0])


def total(loss: DistillationLoss, heads: Heads, teacher: torch.Tensor | None, labels: torch.Tensor | None) -> float:
    return loss.total(loss.parts(heads, teacher, labels)).item()


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_it_equals_its_definition(weight: float, temperature: float) -> None:
    student = logits(0)
    found = total(DistillationLoss(weight, temperature), Heads(student, student, student), logits(1), LABELS)
    expected = loss_by_hand(student.double(), logits(1).double(), LABELS, weight, temperature)
    assert found == pytest.approx(expected.item(), rel=1e-5)


def test_soft_cross_entropy_has_the_gradient_of_kl_and_is_larger_by_the_entropy() -> None:
    gradients, values = [], []
    for kind in ("kl", "cross_entropy"):
        student = logits(0).requires_grad_()
        loss = DistillationLoss(0.2, 2.0, kind)
        value = loss.total(loss.parts(Heads(student, student, student), logits(1), LABELS))
        value.backward()
        gradients.append(student.grad)
        values.append(value.item())
    assert torch.allclose(gradients[0], gradients[1], atol=1e-6)
    entropy = torch.distributions.Categorical(logits=logits(1) / 2.0).entropy().mean().item()
    assert values[1] - values[0] == pytest.approx(0.8 * 4 * entropy, rel=1e-5)


def test_a_student_that_equals_its_teacher_has_no_soft_loss() -> None:
    same = logits(0)
    parts = DistillationLoss(0.5).parts(Heads(same, same, same), same, LABELS)
    assert parts.soft is not None
    assert abs(parts.soft.item()) < 1e-6


def test_two_heads_are_trained_separately_on_labels_and_teacher() -> None:
    outputs = {"logits": (logits(0) + logits(1)) / 2, "cls_logits": logits(0), "distillation_logits": logits(1)}
    parts = DistillationLoss(0.5, 1.0).parts(read_heads(outputs), logits(2), LABELS)
    one, two = logits(0), logits(1)
    on_labels = DistillationLoss(0.5, 1.0).parts(Heads(one, one, one), logits(2), LABELS)
    on_teacher = DistillationLoss(0.5, 1.0).parts(Heads(two, two, two), logits(2), LABELS)
    assert torch.equal(parts.hard, on_labels.hard)
    assert torch.equal(parts.soft, on_teacher.soft)


def test_two_heads_without_a_teacher_both_learn_from_the_labels() -> None:
    one, two = logits(0).requires_grad_(), logits(1).requires_grad_()
    loss = DistillationLoss(0.5)
    loss.total(loss.parts(Heads(one, two, (one + two) / 2), None, LABELS)).backward()
    assert one.grad.abs().max() > 0
    assert two.grad.abs().max() > 0


def test_labels_are_needed_only_where_they_have_a_weight() -> None:
    student = logits(0)
    heads = Heads(student, student, student)
    assert total(DistillationLoss(0.0), heads, logits(1), None) > 0
    with pytest.raises(ConfigurationError, match="no labels"):
        total(DistillationLoss(0.1), heads, logits(1), None)
    with pytest.raises(ConfigurationError, match="no labels"):
        total(DistillationLoss(0.0), heads, None, None)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hard_label_weight": 1.5}, "hard_label_weight is 1.5"),
        ({"temperature": 0.0}, "temperature is 0"),
        ({"soft_loss": "mse"}, "soft_loss is 'mse'; expected one of kl, cross_entropy"),
    ],
)
def test_invalid_settings_are_refused(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        DistillationLoss(**changes)


def test_a_model_without_logits_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no logits"):
        read_heads({"last_hidden_state": logits(0)})

"""k nearest neighbors against a search in float64 by hand, and the paired interval."""

import math
import random

import pytest
import torch

from hf_vbp.errors import ConfigurationError, LabelError, NonFiniteError
from hf_vbp.evaluation import nearest_classes, paired_interval
from hf_vbp.evaluation.neighbors import check_classes


def by_hand(query: list[float], bank: list[list[float]], labels: list[int], neighbors: int) -> int:
    def cosine(other: list[float]) -> float:
        product = sum(a * b for a, b in zip(query, other, strict=True))
        return product / math.sqrt(sum(a * a for a in query) * sum(b * b for b in other))

    pairs = sorted(((cosine(other), label) for other, label in zip(bank, labels, strict=True)), reverse=True)
    votes: dict[int, float] = {}
    for similarity, label in pairs[:neighbors]:
        votes[label] = votes.get(label, 0.0) + math.exp(similarity / 0.07)
    return max(votes, key=lambda label: votes[label])


@pytest.mark.parametrize("neighbors", [1, 2, 7, 20])
def test_the_vote_of_the_nearest_images(neighbors: int) -> None:
    generator = torch.Generator().manual_seed(neighbors)
    labels = torch.randint(0, 4, (60,), generator=generator)
    bank = torch.randn(60, 5, generator=generator) * torch.rand(60, 1, generator=generator)
    queries = torch.randn(300, 5, generator=generator)
    found = nearest_classes(queries, bank, labels, neighbors)
    rows = bank.double().tolist()
    assert found.tolist() == [by_hand(query, rows, labels.tolist(), neighbors) for query in queries.double().tolist()]


def test_all_images_of_a_small_bank_vote_by_default() -> None:
    bank, labels = torch.eye(3), torch.tensor([0, 1, 1])
    query = torch.tensor([[1.0, 0.99, 0.99]])
    assert nearest_classes(query, bank, labels).tolist() == nearest_classes(query, bank, labels, 3).tolist() == [1]
    assert nearest_classes(query, bank, labels, 1).tolist() == [0]


def test_bad_banks() -> None:
    bank, labels = torch.eye(3), torch.tensor([0, 1, 1])
    with pytest.raises(
        ConfigurationError, match=r"neighbors is 4, but the bank has 3 images: give a number from 1 to 3"
    ):
        nearest_classes(bank, bank, labels, 4)
    with pytest.raises(NonFiniteError, match="feature of image 1 of the evaluation images"):
        nearest_classes(torch.tensor([[1.0, 0, 0], [0, 0, 0]]), bank, labels)
    with pytest.raises(NonFiniteError, match="feature of image 0 of the bank images"):
        nearest_classes(bank, torch.full((3, 3), math.nan), labels)
    with pytest.raises(
        LabelError, match=r"No class of the evaluation images \(2\) is among those of the bank \(0, 1\)"
    ):
        check_classes(labels, torch.tensor([2]))


def test_the_paired_interval_contains_the_true_change() -> None:
    generator = random.Random(0)
    lost, gained, images, trials = 0.12, 0.04, 80, 3000
    inside = 0
    for _ in range(trials):
        before, after = [], []
        for _ in range(images):
            draw = generator.random()
            before.append(draw < lost or draw > 0.5)
            after.append(not draw < lost and (draw > 0.5 or lost <= draw < lost + gained))
        low, high = paired_interval(before, after)
        inside += low <= gained - lost <= high
    assert 0.935 < inside / trials < 0.975


def test_the_paired_interval_of_no_change_is_not_empty() -> None:
    low, high = paired_interval([True] * 50, [True] * 50)
    assert -0.06 < low < 0 < high < 0.06
    assert paired_interval([True], [False])[0] >= -1
    with pytest.raises(ConfigurationError, match="No interval for 2 images before and 1 after"):
        paired_interval([True, False], [True])

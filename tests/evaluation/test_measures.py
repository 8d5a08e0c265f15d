"""Figures against definitions written out, and against scipy-free references."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_vbp.errors import ConfigurationError
from hf_vbp.evaluation.measures import kl_divergences, top_classes, wilson_interval


def reference_kl(p_logits: np.ndarray, q_logits: np.ndarray) -> float:
    def softmax(x: np.ndarray) -> np.ndarray:
        weights = np.exp(x.astype(np.longdouble) - x.max())
        return weights / weights.sum()

    p, q = softmax(p_logits), softmax(q_logits)
    return float(sum(a * (np.log(a) - np.log(b)) for a, b in zip(p, q, strict=True) if a > 0))


@given(st.lists(st.tuples(st.floats(-30, 30), st.floats(-30, 30)), min_size=2, max_size=12))
def test_kl_is_the_textbook_sum(pairs: list[tuple[float, float]]) -> None:
    p, q = np.array(pairs).T
    found = float(kl_divergences(torch.tensor(p)[None], torch.tensor(q)[None]))
    assert found == pytest.approx(reference_kl(p, q), rel=1e-9, abs=1e-12)
    assert found >= 0


def test_kl_of_a_model_with_itself_is_zero_and_independent_of_shifts() -> None:
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    assert kl_divergences(logits, logits).max() == 0
    assert kl_divergences(logits.double(), logits.double() + 3).max() < 1e-14
    assert kl_divergences(logits.bfloat16(), logits.bfloat16()).dtype == torch.float64


def test_kl_where_a_probability_underflows() -> None:
    sure, unsure = torch.tensor([[0.0, 2000.0]]), torch.tensor([[0.0, 0.0]])
    assert float(kl_divergences(sure, unsure)) == pytest.approx(math.log(2))
    assert float(kl_divergences(unsure, sure)) == pytest.approx(1000 - math.log(2))


@given(st.integers(1, 9), st.integers(0, 1000))
def test_top_k_counts_the_labels_rank(k: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.stack([torch.randperm(7, generator=generator) for _ in range(6)]).double()
    labels = torch.randint(0, 7, (6,), generator=generator)
    rank = [sum(bool(other > row[label]) for other in row) for row, label in zip(logits, labels, strict=True)]
    hits = (top_classes(logits, k) == labels[:, None]).any(dim=-1)
    assert hits.tolist() == [place < k for place in rank]


def test_the_wilson_interval_solves_its_equation() -> None:
    # Its ends are the shares p0 from which the observed share differs by z standard errors, taken at p0.
    z = 1.959963984540054
    for successes, trials in ((83, 100), (416, 500), (1, 7), (0, 10), (10, 10)):
        share = successes / trials
        for end in wilson_interval(successes, trials):
            assert abs(share - end) == pytest.approx(z * math.sqrt(end * (1 - end) / trials), abs=1e-12)


def test_the_wilson_interval_of_a_published_example() -> None:
    # Newcombe (1998), Statistics in Medicine 17, table I: 81 of 263.
    low, high = wilson_interval(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


@given(st.integers(1, 10_000).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials))))
def test_the_wilson_interval_contains_the_share_and_is_within_bounds(counts: tuple[int, int]) -> None:
    low, high = wilson_interval(*counts)
    assert 0 <= low <= counts[0] / counts[1] <= high <= 1


@pytest.mark.parametrize(
    ("successes", "trials", "confidence"), [(0, 0, 0.95), (3, 2, 0.95), (-1, 2, 0.9), (1, 2, 1.0)]
)
def test_counts_that_make_no_sense(successes: int, trials: int, confidence: float) -> None:
    with pytest.raises(ConfigurationError, match="No interval for"):
        wilson_interval(successes, trials, confidence)

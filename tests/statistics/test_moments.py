"""Moments against numpy in float64, and the algebra of merging."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_vbp.errors import StatisticsError
from hf_vbp.statistics.moments import Moments

HIDDEN = 4


def samples(seed: int, tokens: int, mean: float = 0.0, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return mean + scale * torch.randn(tokens, HIDDEN, generator=generator, dtype=torch.float64)


parts = st.lists(
    st.builds(
        samples,
        seed=st.integers(0, 1000),
        tokens=st.integers(0, 20),
        mean=st.sampled_from([0.0, -3.0, 1e4, 1e-6]),
        scale=st.sampled_from([1.0, 1e-4, 1e4, 0.0]),
    ),
    min_size=1,
    max_size=6,
)


def assert_same(found: Moments, expected: Moments, tolerance: float = 1e-9) -> None:
    assert found.count == expected.count
    spread = expected.m2.sqrt() + 1e-12
    # A mean is stored to 2**-53 of itself, which is more of a deviation the smaller that is.
    rounding = 2**-52 * expected.mean.abs() * expected.count**0.5 / spread
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-12, atol=1e-12)
    assert bool(((found.m2 - expected.m2).abs() <= expected.m2 * (tolerance + 8 * rounding) + 1e-12).all())
    assert found.comoment is not None
    assert expected.comoment is not None
    error = (found.comoment - expected.comoment).abs() / torch.outer(spread, spread)
    assert bool((error <= tolerance + 4 * (rounding[:, None] + rounding)).all())


@settings(deadline=None, max_examples=60)
@given(parts)
def test_merging_in_any_order_equals_numpy_on_everything(chunks: list[torch.Tensor]) -> None:
    everything = torch.cat(chunks)
    if len(everything) < 2:
        return
    forwards = Moments.empty(HIDDEN, comoment=True)
    for chunk in chunks:
        forwards = forwards.merge(Moments.of(chunk, comoment=True))
    backwards = Moments.empty(HIDDEN, comoment=True)
    for chunk in reversed(chunks):
        backwards = Moments.of(chunk, comoment=True).merge(backwards)
    rows = everything.numpy()
    np.testing.assert_allclose(forwards.mean.numpy(), rows.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(forwards.variance.numpy(), rows.var(0, ddof=1), rtol=1e-9, atol=1e-15)
    assert_same(backwards, forwards)


@settings(deadline=None, max_examples=40)
@given(parts, parts, parts)
def test_merging_is_associative_and_commutative(
    first: list[torch.Tensor], second: list[torch.Tensor], third: list[torch.Tensor]
) -> None:
    a, b, c = (Moments.of(torch.cat(chunks), comoment=True) for chunks in (first, second, third))
    assert_same(a.merge(b).merge(c), a.merge(b.merge(c)))
    assert_same(a.merge(b), b.merge(a))


def test_the_empty_set_is_neutral() -> None:
    some = Moments.of(samples(0, 7))
    assert Moments.empty(HIDDEN).merge(some) is some
    assert some.merge(Moments.empty(HIDDEN)) is some


def test_covariance_is_that_of_numpy_and_its_diagonal_is_the_variance() -> None:
    rows = samples(3, 50, mean=1e4)
    moments = Moments.of(rows, comoment=True)
    np.testing.assert_allclose(moments.covariance.numpy(), np.cov(rows.numpy().T), rtol=1e-7, atol=1e-9)
    assert torch.equal(moments.covariance.diagonal(), moments.variance)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4 + 0.1, -7.3e-9])
def test_constants_have_variance_exactly_zero_however_they_are_merged(value: float) -> None:
    moments = Moments.empty(HIDDEN)
    for tokens in (1, 3, 7, 64):
        moments = moments.merge(Moments.of(torch.full((tokens, HIDDEN), value)))
    assert torch.equal(moments.variance, torch.zeros(HIDDEN, dtype=torch.float64))


def test_moments_that_do_not_fit_are_refused() -> None:
    one = Moments.of(samples(0, 1))
    with pytest.raises(StatisticsError, match="at least 2 tokens"):
        _ = one.variance
    with pytest.raises(StatisticsError, match="requires covariances"):
        _ = one.covariance
    with pytest.raises(StatisticsError, match="4 neurons cannot be merged with those of 3"):
        one.merge(Moments.empty(3))
    with pytest.raises(StatisticsError, match="variances only"):
        one.merge(Moments.of(samples(0, 3), comoment=True))


def test_bytes_and_diagonal() -> None:
    full = Moments.of(samples(0, 5), comoment=True)
    assert full.nbytes == 8 * (2 * HIDDEN + HIDDEN**2)
    assert full.diagonal().comoment is None
    assert full.diagonal().nbytes == 8 * 2 * HIDDEN

"""The refit of ``fc2`` on the neurons that a smaller MLP really has."""

import pytest
import torch
from torch import Tensor

from hf_vbp.compensation.base import Compensated
from hf_vbp.compensation.linear import Linear
from hf_vbp.statistics.joint import JointMoments

HIDDEN, OUT = 24, 6


def case(seed: int) -> tuple[Tensor, Compensated, Tensor]:
    """Tokens ``(2000, hidden)``, a first fit whose neurons are a tenth too large, and the dense outputs."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(HIDDEN, HIDDEN, generator=generator, dtype=torch.float64)
    tokens = torch.randn(2000, HIDDEN, generator=generator, dtype=torch.float64) @ mixing + 0.5
    weight = torch.randn(OUT, HIDDEN, generator=generator, dtype=torch.float64)
    # Removed neurons, which no weight gives back.
    missing = torch.randn(2000, OUT, generator=generator, dtype=torch.float64)
    return tokens, Compensated(1.1 * weight, torch.zeros(OUT, dtype=torch.float64)), tokens @ weight.T + missing


def error(fitted: Compensated, tokens: Tensor, outputs: Tensor) -> float:
    return float((tokens @ fitted.weight.T + fitted.bias - outputs).square().mean())


@pytest.mark.parametrize("count", [12, 18, 25, 50, 100, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_the_error_of_new_tokens_falls_with_half_a_token_for_each_neuron_and_more(seed: int, count: int) -> None:
    tokens, first, outputs = case(seed)
    fitted = Linear().refit(first, JointMoments.of(tokens[:count], outputs[:count]))
    assert error(fitted, tokens[1000:], outputs[1000:]) < error(first, tokens[1000:], outputs[1000:])
    # A ridge towards the first fit never raises the error of the tokens that it sees.
    assert error(fitted, tokens[:count], outputs[:count]) <= error(first, tokens[:count], outputs[:count])


@pytest.mark.parametrize("seed", range(3))
def test_many_tokens_give_least_squares(seed: int) -> None:
    tokens, first, outputs = case(seed)
    fitted = Linear(ridge=0.0).refit(first, JointMoments.of(tokens, outputs))
    rows = torch.cat([tokens, torch.ones(len(tokens), 1, dtype=torch.float64)], 1)
    expected = torch.linalg.lstsq(rows, outputs, driver="gelsd").solution
    torch.testing.assert_close(torch.cat([fitted.weight, fitted.bias[:, None]], 1).T, expected)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("count", [12, 40])
def test_the_ridge_is_that_of_an_augmented_least_squares_problem(count: int, bias: bool) -> None:
    tokens, first, outputs = case(0)
    seen, wanted = tokens[:count], outputs[:count]
    if not bias:
        first = Compensated(first.weight, None)
    fitted = Linear(ridge=0.05, regularization="ridge").refit(first, JointMoments.of(seen, wanted))
    # The same share of the second moments about what the bias keeps.
    kept = 0.05 / 1.05 if bias else 1.0
    moments = (seen - seen.mean(0)).square().sum(0) + kept * count * seen.mean(0).square()
    errors = wanted - seen @ first.weight.T
    rows, penalty = seen, torch.diag((0.05 * (moments + 1e-6 * moments.median())).sqrt())
    if bias:
        rows = torch.cat([seen, torch.ones(count, 1, dtype=torch.float64)], 1)
        penalty = torch.block_diag(penalty, torch.full((1, 1), (0.05 * count) ** 0.5, dtype=torch.float64))
    augmented = torch.cat([rows, penalty])
    zeros = torch.zeros(len(penalty), OUT, dtype=torch.float64)
    change = torch.linalg.lstsq(augmented, torch.cat([errors, zeros]), driver="gelsd").solution.T
    torch.testing.assert_close(fitted.weight, first.weight + change[:, :HIDDEN], rtol=1e-6, atol=1e-8)
    if bias:
        torch.testing.assert_close(fitted.bias, change[:, HIDDEN], rtol=1e-6, atol=1e-8)


def test_outputs_that_are_reached_already_change_nothing() -> None:
    tokens, first, _ = case(0)
    fitted = Linear().refit(first, JointMoments.of(tokens, tokens @ first.weight.T + first.bias))
    torch.testing.assert_close(fitted.weight, first.weight, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(fitted.bias, first.bias, rtol=1e-9, atol=1e-9)

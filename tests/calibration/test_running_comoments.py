"""Running co-moments against float64 in two passes."""

import pytest
import torch

from hf_vbp.calibration import running_comoments as module
from hf_vbp.calibration.batch_moments import MAX_ROWS, Workspace, batch_moments
from hf_vbp.calibration.running_comoments import RunningComoments
from hf_vbp.statistics.moments import Moments

CPU = torch.device("cpu")


def rows(tokens: int, hidden: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(tokens, hidden, generator=torch.Generator().manual_seed(seed))


def gather(values: torch.Tensor, batch_rows: int) -> torch.Tensor:
    workspace = Workspace()
    running = RunningComoments(values.shape[1], workspace, CPU)
    for part in values.split(batch_rows):
        running.add_batch(batch_moments(part, workspace, running.add_products))
    return running.finish(Moments.of(values))


def error(found: torch.Tensor, values: torch.Tensor) -> float:
    """The largest error of a co-moment, relative to the deviations of its two neurons."""
    expected = Moments.of(values, comoment=True)
    assert expected.comoment is not None
    deviations = expected.m2.sqrt()
    return float(((found - expected.comoment).abs() / torch.outer(deviations, deviations)).max())


@pytest.mark.parametrize("hidden", [1, 191, 192, 193, 400])
def test_co_moments_are_those_of_float64(hidden: int) -> None:
    values = 50 + rows(1400, hidden)
    found = gather(values, 300)
    assert error(found, values) < 1e-6
    assert torch.equal(found, found.T)
    assert torch.equal(found.diagonal(), Moments.of(values).m2)


@pytest.mark.parametrize(("tokens", "batch"), [(2000, 1), (40_000, 197), (3 * MAX_ROWS, MAX_ROWS)])
def test_many_batches_and_large_ones_are_as_exact(tokens: int, batch: int) -> None:
    # Correlated neurons of positive mean, as after an activation: all products have one sign.
    values = torch.nn.functional.gelu(2 * rows(tokens, 8) + 2 * rows(tokens, 1, seed=1))
    assert error(gather(values, batch), values) < 1e-6


def test_a_mean_that_drifts_is_followed() -> None:
    values = rows(6000, 8) + torch.linspace(-1e3, 1e3, 6000)[:, None]
    assert error(gather(values, 100), values) < 1e-6


def test_a_state_continues_to_the_same_bits() -> None:
    values = rows(8000, 200)
    parts = values.split(197)
    whole = gather(values, 197)
    workspace = Workspace()
    for cut in (1, module.PENDING_TERMS, len(parts) - 1):
        first = RunningComoments(200, workspace, CPU)
        for part in parts[:cut]:
            first.add_batch(batch_moments(part, workspace, first.add_products))
        state = {name: tensor.clone() for name, tensor in first.state().items()}
        second = RunningComoments(200, workspace, CPU)
        second.load_state(state)
        for part in parts[cut:]:
            second.add_batch(batch_moments(part, workspace, second.add_products))
        assert torch.equal(second.finish(Moments.of(values)), whole)


def test_values_too_large_for_float32_are_added_in_float64() -> None:
    values = 1e25 * rows(50, 3)
    assert error(gather(values, 50), values) < 1e-9


def test_no_rows_give_zeros() -> None:
    assert torch.equal(
        RunningComoments(3, Workspace(), CPU).finish(Moments.empty(3)), torch.zeros(3, 3, dtype=torch.float64)
    )

"""The arithmetic of one batch against float64 in two passes."""

import numpy as np
import pytest
import torch

from hf_vbp.calibration import batch_moments as kernels
from hf_vbp.calibration.batch_moments import Workspace, batch_moments
from hf_vbp.statistics.moments import Moments

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def rows(tokens: int, hidden: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(tokens, hidden, generator=torch.Generator().manual_seed(seed))


def relative_error(found: torch.Tensor, values: torch.Tensor) -> float:
    expected = values.double().numpy().var(0)
    return float(np.abs(found.numpy() / len(values) / expected - 1).max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [2, 17, 197, 3152])
def test_variance_agrees_to_1e_6(dtype: torch.dtype, tokens: int) -> None:
    values = torch.nn.functional.gelu(3 * rows(tokens, 96)).to(dtype)
    assert relative_error(batch_moments(values, Workspace()).m2, values) < 1e-6


@pytest.mark.parametrize("ratio", [1e2, 1e4, 1e5])
def test_a_mean_far_above_the_deviation_loses_no_accuracy(ratio: float) -> None:
    values = ratio + rows(3152, 64)
    assert relative_error(batch_moments(values, Workspace()).m2, values) < 1e-6


def test_tiny_and_huge_variances_in_one_batch() -> None:
    scale = torch.tensor([1e-4, 1e4, 1.0, 1e-4])
    mean = torch.tensor([0.0, 0.0, 1e4, 1.0])
    values = mean + scale * rows(3152, 4)
    assert relative_error(batch_moments(values, Workspace()).m2, values) < 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [1, 2, 197, 5000])
def test_constants_are_exactly_zero(dtype: torch.dtype, tokens: int) -> None:
    values = torch.tensor([0.1, -1e4, 7.7e-8, 0.0]).to(dtype).expand(tokens, 4)
    batch = batch_moments(values, Workspace())
    assert torch.equal(batch.m2, torch.zeros(4, dtype=torch.float64))
    assert torch.equal(batch.mean, values[0].double())


@pytest.mark.parametrize("outlier", [1e4, 1e12])
def test_a_shift_that_misses_the_mean_is_noticed(outlier: float) -> None:
    # The rows that the shift is estimated from are far from all others.
    values = rows(3200, 8)
    values[kernels._spread(3200)] = outlier
    values[kernels._spread(3200), 0] = -outlier
    assert relative_error(batch_moments(values, Workspace()).m2, values) < 1e-6


@pytest.mark.parametrize("ratio", [1.0, 1e4, 1e8])
def test_float64_rows_are_computed_in_float64(ratio: float) -> None:
    values = ratio + rows(3152, 16).double()
    before = values.clone()
    for moments in (
        batch_moments(values, Workspace()),
        kernels._device_moments(values, None),
        kernels.weighted_moments(values, torch.ones(3152, dtype=torch.float64), Workspace(), None),
    ):
        assert relative_error(moments.m2, values) < 1e-13 + 1e-16 * ratio
    assert torch.equal(values, before)
    constant = batch_moments(torch.full((197, 4), 0.1 + ratio, dtype=torch.float64), Workspace())
    assert torch.equal(constant.m2, torch.zeros(4, dtype=torch.float64))


def test_rows_of_one_kind_in_every_image_do_not_mislead() -> None:
    values = rows(16 * 197, 8)
    values[::197] += 1e5
    picked = kernels._spread(len(values)).tolist()
    assert len(set(picked)) == kernels.SHIFT_ROWS
    assert sum(index % 197 == 0 for index in picked) <= 2
    assert relative_error(batch_moments(values, Workspace()).m2, values) < 1e-6


def test_millions_of_tokens() -> None:
    values = 100 + rows(2_000_000, 4)
    workspace, total = Workspace(), Moments.empty(4)
    for part in values.split(kernels.MAX_ROWS):
        batch = batch_moments(part, workspace)
        total = total.merge(Moments(batch.count, batch.mean, batch.m2))
    assert relative_error(total.m2, values) < 1e-6


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_reported(bad: float) -> None:
    values = rows(50, 3)
    values[7, 1] = bad
    assert not bool(batch_moments(values, Workspace()).sound)
    assert bool(batch_moments(rows(50, 3), Workspace()).sound)


def test_squares_beyond_float32_are_computed_in_float64() -> None:
    values = 1e25 * rows(50, 3)
    batch = batch_moments(values, Workspace())
    assert bool(batch.sound)
    assert relative_error(batch.m2, values) < 1e-6


def test_the_computation_on_devices_agrees() -> None:
    values = 1e4 + rows(3152, 16)
    handed: list[torch.Tensor] = []
    batch = kernels._device_moments(values, lambda centered: handed.append(centered.clone()))
    assert relative_error(batch.m2, values) < 1e-6
    assert bool(batch.sound)
    assert torch.equal(handed[0].double() + batch.shift, values.double())
    values[3, 3] = float("nan")
    assert not bool(kernels._device_moments(values, None).sound)


def test_full_precision_overrides_and_restores_the_settings_of_the_caller() -> None:
    matmul = torch.backends.mkldnn.matmul
    if not hasattr(matmul, "fp32_precision"):
        pytest.skip("this torch has no precision setting by backend")
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "bf16"
        with torch.autocast("cpu", torch.bfloat16), kernels.full_precision(torch.device("cpu")):
            assert matmul.fp32_precision == "ieee"
            assert (rows(4, 4) @ rows(4, 4)).dtype == torch.float32
        assert matmul.fp32_precision == "bf16"
    finally:
        matmul.fp32_precision = before


def test_scratch_memory_is_reused() -> None:
    workspace = Workspace()
    first = workspace.take("a", (4, 5), torch.device("cpu"))
    assert workspace.take("a", (2, 3), torch.device("cpu")).data_ptr() == first.data_ptr()
    assert workspace.take("b", (2, 3), torch.device("cpu")).data_ptr() != first.data_ptr()
    assert workspace.take("a", (9, 9), torch.device("cpu")).shape == (9, 9)

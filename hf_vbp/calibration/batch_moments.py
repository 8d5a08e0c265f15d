"""Moments of the rows of one batch: float32 arithmetic on centered values, float64 results.

Rows of float64 models are processed in float64 throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from hf_vbp.calibration.packed_symmetric import PackedSymmetric
from hf_vbp.modeling.arithmetic import arithmetic_dtype, to_float64

# Rows that the shift is estimated from; it only has to be within a few standard deviations of the mean.
SHIFT_ROWS = 32
# A batch whose shift is further from a mean than this many squared standard deviations is computed again.
MAX_MISS = 8.0
# A chunk and the two sums that it is added to fit into a second-level cache of 2 MiB.
CHUNK_BYTES = 512 * 1024
# Chunks that are summed in float32 before they are added in float64.
GROUP = 32
# Rows that are processed at once: the longest float32 sum of products, and the largest copy.
MAX_ROWS = 4096
# Floats of a cache line. Rows of a multiple of 1,024 neurons start at the same offset of a page and compete for the
# same few sets of the cache; with one cache line between the rows a product is 5 % faster.
PADDING = 16


@dataclass(frozen=True, eq=False)
class BatchMoments:
    """Moments of ``count`` rows.

    Attributes:
        count: Number of rows.
        mean: ``(hidden,)`` float64.
        m2: ``(hidden,)`` float64, about ``mean``.
        shift: ``(hidden,)`` float64, subtracted from the rows before their products were computed.
        sound: ``()`` bool, whether everything is finite.
    """

    count: int
    mean: torch.Tensor
    m2: torch.Tensor
    shift: torch.Tensor
    sound: torch.Tensor


class Workspace:
    """Scratch memory that all sites share, so that no batch allocates new pages."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype], torch.Tensor] = {}

    def take(
        self, name: str, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """Return uninitialized memory of ``shape``; it overwrites earlier memory of the same name."""
        size = math.prod(shape)
        buffer = self._buffers.get((name, dtype))
        if buffer is None or buffer.numel() < size or buffer.device != device:
            buffer = self._buffers[name, dtype] = torch.empty(size, dtype=dtype, device=device)
        return buffer[:size].view(shape)

    def take_rows(
        self, count: int, hidden: int, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """Return memory for rows, ``(count, PackedSymmetric.width)``, whose columns after ``hidden`` are 0."""
        width = PackedSymmetric.of(hidden).width
        rows = self.take("rows", (count, width + PADDING), device, dtype)[:, :width]
        if width > hidden:
            rows[:, hidden:] = 0
        return rows


# Receives ``(rows, hidden)`` centered values, possibly with more columns, which are 0, and adds their products to a
# sum.
AddProducts = Callable[[torch.Tensor], None]


def batch_moments(rows: torch.Tensor, workspace: Workspace, add_products: AddProducts | None = None) -> BatchMoments:
    """Return mean and centered second moments of ``rows``, and pass the centered rows to ``add_products``.

    An estimate of the mean is subtracted from the rows first (exact by Sterbenz' lemma where values are close to it),
    so that squares are of the size of the variance and not of the squared mean. Float32 sums run over about a hundred
    terms; these sums are added in float64. The relative error of ``m2`` is a few ``2**-24``, times at most
    ``1 + MAX_MISS`` where the estimate was poor, for any ratio of mean to standard deviation. Where the estimate was
    worse, the batch is computed again with a better one, and in float64 if that does not suffice. Float64 rows are
    computed in float64, with a relative error of a few ``2**-53``. Constant columns give exactly 0. On a GPU the shift
    is the mean itself, so that nothing waits for the device.

    Args:
        rows: ``(count, hidden)``, any floating dtype, at most ``MAX_ROWS``.
        workspace: Scratch memory.
        add_products: Called once with ``(count, hidden)`` float32 or float64, the rows minus the returned ``shift``,
            possibly followed by columns of 0. The memory is overwritten afterwards.
    """
    if rows.device.type != "cpu":
        return _device_moments(rows, add_products)
    if rows.dtype == torch.float64:
        return _float64_moments(rows, workspace, add_products)
    count = len(rows)
    keep = add_products is not None
    shift = rows[_spread(count)].double().mean(0).float()
    for _ in range(2):
        totals, squares = _shifted_sums(rows, shift, workspace, keep)
        miss = totals / count
        missed = totals * miss
        m2 = (squares - missed).clamp_(min=0)
        # Comparisons with NaN are false, so one test finds values that are not finite and poor estimates.
        if bool(((missed <= MAX_MISS * m2) & (m2 < math.inf)).all()):
            break
        shift = (shift + miss).float()
    else:
        return _float64_moments(rows, workspace, add_products)
    if add_products is not None:
        add_products(workspace.take_rows(count, rows.shape[1], rows.device))
    shift64 = shift.double()
    return BatchMoments(count, shift64 + miss, m2, shift64, torch.tensor(True))


def weighted_moments(
    rows: torch.Tensor, weights: torch.Tensor, workspace: Workspace, add_products: AddProducts | None
) -> BatchMoments:
    """Return mean and centered second moments of weighted rows, and pass the scaled rows to ``add_products``.

    Rows are centered by their unweighted mean and scaled by the square root of their weight, so that their products
    are weighted. For least squares only: constant columns are constant up to rounding in the dtype of the arithmetic.

    Args:
        rows: ``(count, hidden)``, any floating dtype, at most ``MAX_ROWS``.
        weights: ``(count,)`` in the dtype of the arithmetic (:func:`arithmetic_dtype`), 0 or more, about 1 on average.
        workspace: Scratch memory.
        add_products: Called once with ``(count, hidden)`` values, possibly followed by columns of 0. The memory is
            overwritten afterwards.

    Returns:
        The moments; their count is the number of rows.
    """
    count = len(rows)
    dtype = arithmetic_dtype(rows.dtype)
    shift, roots = rows.mean(0, dtype=dtype), weights.sqrt()
    hidden = rows.shape[1]
    padded = workspace.take_rows(count, hidden, rows.device, dtype)
    scaled = torch.sub(rows, shift, out=padded[:, :hidden]).mul_(roots[:, None])
    if add_products is not None:
        add_products(padded)
    total = to_float64(weights).sum()
    miss = to_float64(roots @ scaled) / total
    m2 = to_float64(scaled.square_().sum(0)) - miss.square() * total
    shift = to_float64(shift)
    return BatchMoments(count, shift + miss, m2.clamp_(min=0), shift, m2.isfinite().all())


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute products in float32, whether or not the caller uses TF32, bfloat16 or autocast; restore its settings."""
    backends: Any = torch.backends
    backend: Any = backends.cuda.matmul if device.type == "cuda" else getattr(backends.mkldnn, "matmul", None)
    restore: Callable[[], None]
    if hasattr(backend, "fp32_precision"):
        before = backend.fp32_precision
        backend.fp32_precision = "ieee"

        def restore() -> None:
            backend.fp32_precision = before

    else:
        legacy = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")

        def restore() -> None:
            torch.set_float32_matmul_precision(legacy)

    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        restore()


@lru_cache(maxsize=64)
def _spread(count: int) -> torch.Tensor:
    """Return the rows to estimate a shift from, spread by the golden ratio.

    Evenly spaced rows could all be the class token, whose activations differ from those of other tokens.
    """
    fractions = torch.arange(min(SHIFT_ROWS, count), dtype=torch.float64).mul_(0.6180339887498949).frac_()
    return fractions.mul_(count).long()


def _shifted_sums(
    rows: torch.Tensor, shift: torch.Tensor, workspace: Workspace, keep: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sums of ``rows - shift`` and of its squares, ``(hidden,)`` float64 each, in one read of ``rows``.

    With ``keep``, the shifted rows remain in the scratch memory for rows; otherwise each chunk of them overwrites the
    previous one, in the cache.
    """
    hidden = rows.shape[1]
    size = min(len(rows), max(1, CHUNK_BYTES // (4 * hidden)))
    sums = workspace.take("sums", (2, size, hidden), rows.device)
    parts = torch.split(rows, size)
    if keep:
        places = torch.split(workspace.take_rows(len(rows), hidden, rows.device)[:, :hidden], size)
    else:
        places = (workspace.take("chunk", (size, hidden), rows.device),) * len(parts)
    linear, square = sums
    result = torch.zeros(2, hidden, dtype=torch.float64)
    for number, (part, place) in enumerate(zip(parts, places, strict=True)):
        if number % GROUP == 0:
            sums.zero_()
        length = len(part)
        if length < size:
            place, linear, square = place[:length], linear[:length], square[:length]
        centered = torch.sub(part, shift, out=place)
        linear += centered
        square.addcmul_(centered, centered)
        if number % GROUP == GROUP - 1 or number == len(parts) - 1:
            result += sums.sum(1)
    return result[0], result[1]


def _device_moments(rows: torch.Tensor, add_products: AddProducts | None) -> BatchMoments:
    dtype = arithmetic_dtype(rows.dtype)
    shift = rows.mean(0, dtype=dtype)
    centered = rows.to(dtype) - shift
    miss = to_float64(centered.sum(0)) / len(rows)
    if add_products is not None:
        add_products(centered)
    m2 = to_float64(centered.square_().sum(0)) - miss.square() * len(rows)
    shift = to_float64(shift)
    return BatchMoments(len(rows), shift + miss, m2.clamp_(min=0), shift, m2.isfinite().all())


def _float64_moments(rows: torch.Tensor, workspace: Workspace, add_products: AddProducts | None) -> BatchMoments:
    mean = rows.mean(0, dtype=torch.float64)
    hidden = rows.shape[1]
    padded = workspace.take_rows(len(rows), hidden, rows.device, torch.float64)
    centered = torch.sub(rows, mean, out=padded[:, :hidden])
    # The mean of the deviations is not exactly 0 after rounding; subtracting it keeps constants at 0.
    rest = centered.mean(0)
    centered -= rest
    if add_products is not None:
        add_products(padded)
    m2 = centered.square_().sum(0)
    return BatchMoments(len(rows), mean + rest, m2, mean + rest, m2.isfinite().all())

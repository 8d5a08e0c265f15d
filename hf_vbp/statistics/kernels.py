"""Moments of the rows of one batch: float32 arithmetic on centred values, float64 results."""

from __future__ import annotations

from dataclasses import dataclass

import torch

# Rows that the shift is estimated from; a shift within a fraction of a standard deviation is all that is needed.
SHIFT_ROWS = 64
# A batch whose shift missed the mean by more than this many squared standard deviations is done again in float64.
MAX_MISS = 8.0
CHUNK_BYTES = 512 * 1024
GRAM_BLOCKS = 8


@dataclass(frozen=True, eq=False)
class BatchMoments:
    """Moments of ``count`` rows. ``gram`` is about ``shift``, and only its upper triangle of blocks is filled."""

    count: int
    mean: torch.Tensor
    m2: torch.Tensor
    shift: torch.Tensor
    gram: torch.Tensor | None = None


def batch_moments(rows: torch.Tensor, *, gram: bool = False) -> BatchMoments:
    """Return mean and centred second moments of ``rows`` ``(count, hidden)``.

    The rows are shifted by an estimate of their mean first (exact by Sterbenz' lemma where values are close to
    it), so that squares are of the size of the variance and not of the mean; sums of at most a few hundred rows
    run in float32, everything above in float64. Relative error of ``m2``: about ``2**-21``, independent of
    mean / standard deviation. Constant columns give exactly 0.
    """
    result = _float32_moments(rows, gram)
    miss = (result.mean - result.shift).square() * result.count
    sound = (miss <= MAX_MISS * result.m2) & torch.isfinite(result.m2)
    return result if bool(sound.all()) else _float64_moments(rows, gram)


def _float32_moments(rows: torch.Tensor, gram: bool) -> BatchMoments:
    count, hidden = rows.shape
    sampled = rows[:: max(1, count // SHIFT_ROWS)]
    shift = sampled.double().mean(0).float()
    totals = rows.new_zeros(hidden, dtype=torch.float64)
    squares = rows.new_zeros(hidden, dtype=torch.float64)
    step = count if gram else max(1, CHUNK_BYTES // (4 * hidden))
    product = None
    for start in range(0, count, step):
        centred = rows[start : start + step].float() - shift
        totals += centred.sum(0)
        if gram:
            product = upper_gram(centred)
            squares += product.diagonal()
        else:
            squares += centred.square_().sum(0)
    miss = totals / count
    m2 = (squares - miss.square() * count).clamp_(min=0)
    shift64 = shift.double()
    return BatchMoments(count, shift64 + miss, m2, shift64, product)


def _float64_moments(rows: torch.Tensor, gram: bool) -> BatchMoments:
    wide = rows.double()
    mean = wide.mean(0)
    centred = wide.sub_(mean)
    rest = centred.mean(0)
    centred -= rest
    product = centred.T @ centred if gram else None
    mean = mean + rest
    return BatchMoments(len(rows), mean, centred.square_().sum(0), mean, product)


def upper_gram(centred: torch.Tensor) -> torch.Tensor:
    """Return ``centred^T centred`` ``(hidden, hidden)`` with the blocks below the diagonal left at 0."""
    hidden = centred.shape[1]
    product = centred.new_zeros(hidden, hidden)
    step = -(-hidden // GRAM_BLOCKS)
    for start in range(0, hidden, step):
        stop = min(start + step, hidden)
        torch.mm(centred[:, start:stop].T, centred[:, start:], out=product[start:stop, start:])
    return product


def mirror_upper(matrix: torch.Tensor) -> torch.Tensor:
    """Return the symmetric matrix whose upper triangle is that of ``matrix``."""
    upper = matrix.triu()
    return upper + upper.triu(1).T

"""The linear algebra that compensation, regularization and prediction share. Pure tensors in float64."""

import torch
from torch import Tensor

from hf_vbp.statistics.moments import Moments


def complement(kept: Tensor, hidden: int) -> Tensor:
    """Return the ascending indices ``(hidden - kept,)`` of the neurons that are not kept."""
    pruned = torch.ones(hidden, dtype=torch.bool)
    pruned[kept] = False
    return pruned.nonzero().flatten()


def cholesky(matrix: Tensor) -> Tensor | None:
    """Return the lower Cholesky factor, or None when the matrix is singular to working precision."""
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(matrix)
    # The factorization of a singular matrix often succeeds with a pivot of rounding noise; the solution is then noise.
    floor = torch.finfo(matrix.dtype).eps * matrix.shape[0] * matrix.diagonal()
    if failed or not torch.isfinite(factor).all() or bool((factor.diagonal().square() <= floor).any()):
        return None
    return factor


def fold(covariance: Tensor, kept: Tensor, pruned: Tensor, removed: Tensor) -> Tensor | None:
    """Return ``removed C_PK C_KK^-1`` ``(out, kept)``, or None when ``C_KK`` is singular.

    This is the least-squares prediction of the pruned neurons from the kept ones, multiplied by ``fc2``. It is zero
    where nothing correlates with the kept neurons, whether or not ``C_KK`` is singular.

    Args:
        covariance: ``(hidden, hidden)``.
        kept: ``(kept,)`` int64.
        pruned: ``(pruned,)`` int64.
        removed: ``(out, pruned)``, the removed columns of ``fc2``.
    """
    cross = covariance[pruned][:, kept]
    if cross.numel() == 0 or not cross.any():
        return torch.zeros(len(removed), len(kept), dtype=covariance.dtype)
    factor = cholesky(covariance[kept][:, kept])
    return None if factor is None else torch.cholesky_solve((removed @ cross).T, factor).T


def expected_error(
    change: Tensor, shift: Tensor, moments: Moments, metric: Tensor | None = None
) -> tuple[float, bool]:
    """Return ``E|V h + v|_G^2`` over the tokens of ``moments``, and whether it is exact.

    With mean ``m`` and covariance ``C`` of ``h`` it is ``trace(G V C V^T) + |V m + v|_G^2``; without covariances,
    neurons are treated as uncorrelated and the result is an approximation.

    Args:
        change: ``V`` ``(out, hidden)``.
        shift: ``v`` ``(out,)``.
        moments: Moments of the calibration tokens, or of held-out ones.
        metric: ``G`` ``(out, out)``, or None for the identity.
    """
    weighted = change if metric is None else metric @ change
    offset = change @ moments.mean + shift
    bias = offset @ (offset if metric is None else metric @ offset)
    if moments.comoment is None:
        spread = ((weighted * change).sum(0) * moments.variance).sum()
    else:
        spread = (weighted * (change @ moments.comoment)).sum() / max(moments.count - 1, 1)
    return max(float(spread + bias), 0.0), moments.comoment is not None

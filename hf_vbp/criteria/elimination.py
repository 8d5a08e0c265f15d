"""Greedy backward elimination with refit: the whole curve of output error against width, in one run per site.

Optimal Brain Surgeon (Hassibi and Stork, 1992) for a linear layer. With covariance ``C`` of the hidden neurons
and output metric ``G``, removing neuron ``j`` and refitting all others costs ``|w_j|_G^2 / [C_KK^-1]_jj``, where
``w_j`` is the current, already refitted column of ``fc2``. The cheapest neuron is removed and the rest updated, until
none is left. Only two symmetric matrices are needed, both ``(hidden, hidden)``: ``M = C_KK^-1`` and the Gram matrix
``A = W^T G W`` of the refitted columns, so the cost does not depend on the width of the output. With ``m`` the
column of ``M`` and ``a`` that of ``A`` that belong to the removed neuron, and ``u = m / m_j``::

    M' = M - m_j u u^T
    A' = A - u z^T - z u^T,   z = a - a_j u / 2

The updates of a block of steps are collected in thin panels and applied at once, and the removed neurons are then
dropped, so that nearly all the work is matrix products of shrinking size.

Pure tensors in float64.
"""

import torch
from torch import Tensor

from hf_vbp._progress import Progress
from hf_vbp.errors import ConfigurationError, NonFiniteError, StatisticsError
from hf_vbp.modeling.arithmetic import accumulation_device
from hf_vbp.statistics.elimination_curve import EliminationCurve

BLOCK = 64
"""Steps between two applications of the collected updates; values between 32 and 128 take about the same time."""


def eliminate(
    covariance: Tensor,
    gram: Tensor,
    *,
    block: int = BLOCK,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> EliminationCurve:
    """Eliminate all neurons of one site, the cheapest first, refitting the rest after each.

    Time is cubic in the number of neurons: 3,072 of them take some seconds on two cores.

    Args:
        covariance: ``(hidden, hidden)`` float64, regularized. Neurons whose row is zero
            cost nothing and are removed first, in the order of their index.
        gram: ``(hidden, hidden)`` float64, ``W^T G W`` with ``W`` the dense ``fc2`` weight: :func:`output_gram`.
        block: Steps between two applications of the collected updates.
        device: Device of the computation; by default that of the tensors. The CPU in place of one without float64.
        progress: Receives the number of removed neurons and of all neurons.

    Returns:
        The curve, on the CPU.

    Raises:
        ConfigurationError: The shapes do not match, or ``block`` is below 1.
        NonFiniteError: The input has NaN or infinite values.
        StatisticsError: ``covariance`` is singular apart from zero rows, or not positive definite; or the costs
            exceed the range of float64.
    """
    hidden = covariance.shape[0]
    if block < 1:
        raise ConfigurationError(f"block must be 1 or more, not {block}")
    if covariance.shape != (hidden, hidden) or gram.shape != (hidden, hidden):
        raise ConfigurationError(
            "covariance and gram must be square and of one size, "
            f"not {tuple(covariance.shape)} and {tuple(gram.shape)}"
        )
    if not (torch.isfinite(covariance).all() and torch.isfinite(gram).all()):
        raise NonFiniteError("the covariance or the weights of the site hold NaN or infinity")
    device = accumulation_device(covariance.device if device is None else torch.device(device))
    constant = (covariance.diagonal() == 0).cpu()
    neurons = (~constant).nonzero().flatten()
    order, costs = [constant.nonzero().flatten()], [torch.zeros(int(constant.sum()), dtype=torch.float64)]
    inverse, gram = _scaled_inverse(
        _among(covariance.to(device, torch.float64), neurons.to(device)),
        _among(gram.to(device, torch.float64), neurons.to(device)),
    )
    while neurons.numel():
        removed, cost, inverse, gram = _eliminate_block(inverse, gram, min(block, neurons.numel()))
        order.append(neurons[removed.cpu()])
        costs.append(cost.cpu())
        is_kept = torch.ones(neurons.numel(), dtype=torch.bool)
        is_kept[removed.cpu()] = False
        neurons = neurons[is_kept]
        if progress is not None:
            progress(hidden - neurons.numel(), hidden)
    if not bool(torch.isfinite(torch.cat(costs)).all()):
        raise StatisticsError(
            "the costs of removing neurons exceed the range of float64: check activations and weights of the site"
        )
    return EliminationCurve(torch.cat(order), torch.cat(costs))


def output_gram(fc2_weight: Tensor, metric: Tensor | None = None) -> Tensor:
    """Return ``W^T G W`` ``(hidden, hidden)`` of ``fc2_weight`` ``(out, hidden)``, with ``G = I`` for None."""
    return fc2_weight.T @ (fc2_weight if metric is None else metric @ fc2_weight)


def _eliminate_block(inverse: Tensor, gram: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Do ``steps`` eliminations; return positions, costs, and both matrices of the kept neurons.

    No step waits for the device, because positions are tensors.
    """
    size = inverse.shape[0]
    # Pending updates: inverse - scaled^T scaled, gram - ratio^T partner - partner^T ratio.
    scaled, ratio, partner = inverse.new_zeros(3, steps, size)
    inverse_diagonal, gram_diagonal = inverse.diagonal().clone(), gram.diagonal().clone()
    is_removed = torch.zeros(size, dtype=torch.bool, device=inverse.device)
    positions, costs = [], []
    for step in range(steps):
        cost = (gram_diagonal / inverse_diagonal).masked_fill(is_removed, torch.inf)
        position = cost.argmin().view(1)
        s, r, p = scaled[:step], ratio[:step], partner[:step]
        column = inverse.index_select(0, position)[0] - s.index_select(1, position)[:, 0] @ s
        gram_column = gram.index_select(0, position)[0]
        gram_column = gram_column - r.index_select(1, position)[:, 0] @ p - p.index_select(1, position)[:, 0] @ r
        pivot = column.index_select(0, position)
        u = column / pivot
        z = gram_column - gram_column.index_select(0, position) / 2 * u
        scaled[step], ratio[step], partner[step] = column / pivot.sqrt(), u, z
        inverse_diagonal -= scaled[step].square()
        gram_diagonal -= 2 * u * z
        is_removed.index_fill_(0, position, True)
        positions.append(position)
        costs.append(cost.index_select(0, position))
    removed = torch.cat(positions)
    kept = (~is_removed).nonzero().flatten()
    s, r, p = scaled[:, kept], ratio[:, kept], partner[:, kept]
    inverse = torch.addmm(_among(inverse, kept), s.T, s, alpha=-1)
    cross = r.T @ p
    gram = _among(gram, kept).sub_(cross).sub_(cross.T)
    # Rounding can leave a cost of zero slightly below zero.
    return removed, torch.cat(costs).clamp(min=0), inverse, gram


def _among(matrix: Tensor, indices: Tensor) -> Tensor:
    return matrix.index_select(0, indices).index_select(1, indices)


def _scaled_inverse(covariance: Tensor, gram: Tensor) -> tuple[Tensor, Tensor]:
    """Return the inverse of the covariance and the Gram matrix, in units in which every variance is about 1.

    The costs do not depend on the units of the neurons. Powers of two keep every bit, and without them the inverse of
    variances below 1e-154 leaves the range of float64.
    """
    exponents = (torch.frexp(covariance.diagonal()).exponent // 2).to(covariance.dtype)
    unit, per_unit = exponents.exp2(), (-exponents).exp2()
    scaled = covariance * per_unit * per_unit[:, None]
    return _inverse(scaled), gram * unit * unit[:, None]


def _inverse(covariance: Tensor) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex(covariance)
    # The factorization of a singular matrix often succeeds with a pivot of rounding noise; the result is then noise.
    floor = torch.finfo(covariance.dtype).eps * len(covariance)
    if failed or bool((factor.diagonal().square() <= floor * covariance.diagonal()).any()):
        raise StatisticsError(
            "the covariance of the hidden neurons is singular; add a ridge or gather more calibration images"
        )
    return torch.cholesky_inverse(factor)

"""How far the outputs of the MLPs really moved: what the predicted damage is to be held against."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from hf_vbp.adapters import find_sites
from hf_vbp.errors import ConfigurationError


class OutputErrors:
    """Compares the outputs of the MLPs of two models while both see the same batches, the dense one first.

    Used as a context around :func:`hf_vbp.evaluation.evaluate_models`. Unlike what
    :func:`hf_vbp.prediction.predict_damage` tells, the inputs of the pruned MLPs are those of the pruned model, so
    that errors of earlier sites count, and the images are others than those of the calibration.

    Args:
        dense: The model before pruning.
        pruned: The model after it.
        metrics: ``G`` ``(out, out)`` for each site, in which errors count; None for the identity.

    Raises:
        ConfigurationError: The two models, or the metrics, do not have as many sites.
    """

    def __init__(self, dense: nn.Module, pruned: nn.Module, metrics: Sequence[torch.Tensor | None]) -> None:
        self.sites = list(zip(find_sites(dense), find_sites(pruned), strict=False))
        counts = {len(find_sites(dense)), len(find_sites(pruned)), len(metrics)}
        if len(counts) > 1:
            raise ConfigurationError(f"the models and the metrics have {sorted(counts)} MLPs; they must have as many")
        self.metrics = list(metrics)
        self.errors = [0.0] * len(self.sites)
        self.energies = [0.0] * len(self.sites)
        self.sums: list[torch.Tensor | None] = [None] * len(self.sites)
        self.tokens = [0] * len(self.sites)
        self._dense_outputs: dict[int, torch.Tensor] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> "OutputErrors":
        for index, (dense, pruned) in enumerate(self.sites):
            self._handles.append(dense.fc2.register_forward_hook(partial(self._keep, index)))
            self._handles.append(pruned.fc2.register_forward_hook(partial(self._compare, index)))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._dense_outputs.clear()

    def to_dict(self) -> dict[str, Any]:
        """Return ``relative_output_error`` and ``relative_output_error_by_site``, as of the predicted damage.

        The squared error of the outputs over the variance of the dense outputs, both summed in the metric.
        """
        energies = []
        for energy, total, tokens, metric in zip(self.energies, self.sums, self.tokens, self.metrics, strict=True):
            centre = 0.0 if total is None else _energy(total[None] / tokens, metric) * tokens
            energies.append(max(energy - centre, 0.0))
        by_site = [_ratio(error, energy) for error, energy in zip(self.errors, energies, strict=True)]
        # Per token, since sites of hierarchical models see different numbers of them.
        shares = [1 / max(tokens, 1) for tokens in self.tokens]
        total_error = sum(error * share for error, share in zip(self.errors, shares, strict=True))
        total_energy = sum(energy * share for energy, share in zip(energies, shares, strict=True))
        return {
            "relative_output_error": _ratio(total_error, total_energy),
            "relative_output_error_by_site": by_site,
            "metric": "gradient" if all(metric is not None for metric in self.metrics) else "identity",
        }

    def _keep(self, index: int, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        self._dense_outputs[index] = output.detach()

    def _compare(self, index: int, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        dense = self._dense_outputs.pop(index)
        dense = dense.reshape(-1, dense.shape[-1]).double()
        rows = output.detach().reshape(-1, output.shape[-1]).double()
        self.errors[index] += _energy(rows - dense, self.metrics[index])
        self.energies[index] += _energy(dense, self.metrics[index])
        total = self.sums[index]
        self.sums[index] = dense.sum(0) if total is None else total + dense.sum(0)
        self.tokens[index] += len(rows)


def _energy(rows: torch.Tensor, metric: torch.Tensor | None) -> float:
    """Return the sum over the rows of their squared length in the metric."""
    if metric is None:
        return float(rows.square().sum())
    return float(((rows @ metric.to(rows.device, rows.dtype)) * rows).sum())


def _ratio(error: float, energy: float) -> float:
    return error / energy if energy > 0 else float(error > 0)

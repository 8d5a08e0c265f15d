"""The measured change of the outputs of the MLPs, to compare with the predicted output error."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from hf_vbp.adapters.registry import find_sites
from hf_vbp.errors import ConfigurationError
from hf_vbp.pruning.damage import Damage, SiteDamage


class OutputErrors:
    """Compares the outputs of the MLPs of two models while both see the same batches, the dense one first.

    Used as a context around :func:`hf_vbp.evaluation.evaluate_models`. In contrast to the predicted output error
    (:mod:`hf_vbp.pruning.damage`), the inputs of the pruned MLPs are those of the pruned model, so that errors of
    earlier sites count, and the images are not those of the calibration.

    Args:
        dense: The model before pruning.
        pruned: The model after it.
        metrics: ``G`` ``(out, out)`` for each site, which weighs its errors; None for the identity.

    Raises:
        ConfigurationError: The two models and the metrics have different numbers of sites.
    """

    def __init__(self, dense: nn.Module, pruned: nn.Module, metrics: Sequence[torch.Tensor | None]) -> None:
        before, after = find_sites(dense), find_sites(pruned)
        counts = {len(before), len(after), len(metrics)}
        if len(counts) > 1:
            raise ConfigurationError(
                f"The models and the metrics have {sorted(counts)} MLPs: give models with as many MLPs, and one "
                "metric for each."
            )
        self.sites = list(zip(before, after, strict=True))
        self.metrics = list(metrics)
        self.errors = [0.0] * len(self.sites)
        self.energies = [0.0] * len(self.sites)
        self.sums: list[torch.Tensor | None] = [None] * len(self.sites)
        self.tokens = [0] * len(self.sites)
        # Several of a site that runs several times in a forward pass.
        self._dense_outputs: dict[int, list[torch.Tensor]] = {}
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
        """Return ``relative_output_error`` and ``relative_output_error_by_site``, as the predicted damage.

        The squared error of the outputs over the variance of the dense outputs, both summed in the metric.
        """
        sites = []
        for index, (site, _) in enumerate(self.sites):
            # Per token, because sites of hierarchical models have different numbers of tokens.
            tokens, total, metric = max(self.tokens[index], 1), self.sums[index], self.metrics[index]
            center = 0.0 if total is None else _energy(total[None] / tokens, metric)
            energy = max(self.energies[index] / tokens - center, 0.0)
            sites.append(SiteDamage(site.name, self.errors[index] / tokens, energy, exact=True))
        weighted = all(metric is not None for metric in self.metrics)
        described = Damage(tuple(sites), "gradient" if weighted else "identity").to_dict()
        # A measured value is not an approximation.
        del described["exact"]
        return described

    def _keep(self, index: int, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        self._dense_outputs.setdefault(index, []).append(self.sites[index][0].by_neuron(output.detach()))

    def _compare(self, index: int, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        dense = self._dense_outputs[index].pop(0)
        # Products in float32: in float64 they would take longer than the models on many GPUs.
        dense = dense.reshape(-1, dense.shape[-1]).float()
        output = self.sites[index][1].by_neuron(output.detach())
        rows = output.reshape(-1, output.shape[-1]).float()
        self.errors[index] += _energy(rows - dense, self.metrics[index])
        self.energies[index] += _energy(dense, self.metrics[index])
        total, added = self.sums[index], dense.sum(0).cpu().double()
        self.sums[index] = added if total is None else total + added
        self.tokens[index] += len(rows)


def _energy(rows: torch.Tensor, metric: torch.Tensor | None) -> float:
    """Return the sum over the rows of their squared length in the metric."""
    if metric is None:
        return float(rows.square().sum())
    return float(((rows @ metric.to(rows.device, rows.dtype)) * rows).sum())

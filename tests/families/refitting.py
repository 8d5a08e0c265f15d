"""The sites that a second pass refits, seen by plain hooks: what the pruned MLP has, and what the dense one gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .contract import Work
from .family import Site
from .running import hooked, neurons_last, width_in


@dataclass(frozen=True)
class Refitted:
    """One site: hidden neurons ``(tokens, kept)``, then ones where ``down`` has a bias, and the dense outputs."""

    site: Site
    hidden: torch.Tensor
    dense: torch.Tensor

    def error(self, down: Any) -> float:
        """The squared error of a projection on these tokens."""
        weight = down.weight.double().flatten(1)
        if down.bias is not None:
            weight = torch.cat([weight, down.bias.double()[:, None]], 1)
        return float((self.hidden @ weight.detach().T - self.dense).square().sum())

    def optimum(self) -> torch.Tensor:
        """The weights ``(out, kept)``, with the bias behind them, of least squares in float64."""
        return torch.linalg.lstsq(self.hidden, self.dense, driver="gelsd").solution.T

    @property
    def least_error(self) -> float:
        """The squared error of the optimum."""
        return float((self.hidden @ self.optimum().T - self.dense).square().sum())


def narrower(work: Work, pruned: Any) -> list[Site]:
    """The sites whose neurons are mixed and of which some are removed."""
    dense, small = (dict(model.named_modules()) for model in (work.model, pruned))
    return [site for site in work.sites if site.mixes and width_in(small[site.down]) < width_in(dense[site.down])]


def refitted(work: Work, pruned: Any, batches: Sequence[dict[str, Any]]) -> list[Refitted]:
    """The sites among them when the pruned MLPs get the inputs of the dense ones."""
    dense, small = (dict(model.named_modules()) for model in (work.model, pruned))
    found = []
    for site in narrower(work, pruned):
        inputs: list[torch.Tensor] = []
        outputs: list[torch.Tensor] = []
        hidden: list[torch.Tensor] = []
        keeps = [
            *(
                dense[up].register_forward_pre_hook(lambda _, given, kept=inputs: kept.append(given[0]))
                for up in site.ups
            ),
            dense[site.down].register_forward_hook(
                lambda _, given, output, kept=outputs, kind=site.kind: kept.append(neurons_last(output, kind))
            ),
        ]
        gives = [
            *(small[up].register_forward_pre_hook(lambda _, given, kept=inputs: (kept.pop(0),)) for up in site.ups),
            small[site.down].register_forward_pre_hook(
                lambda _, given, kept=hidden, kind=site.kind: kept.append(neurons_last(given[0], kind))
            ),
        ]
        with hooked(*keeps, *gives), torch.no_grad():
            for batch in batches:
                work.model(**batch)
                pruned(**batch)
        rows = torch.cat([values.flatten(0, -2) for values in hidden]).double()
        if small[site.down].bias is not None:
            rows = torch.cat([rows, torch.ones(len(rows), 1, dtype=torch.float64)], 1)
        found.append(Refitted(site, rows, torch.cat([values.flatten(0, -2) for values in outputs]).double()))
    return found


def with_optimum(work: Work, pruned: Any) -> Any:
    """Set every one of these sites to its optimum on the batches of ``work``, in place; returns the model."""
    modules = dict(pruned.named_modules())
    for found in refitted(work, pruned, work.batches):
        down, best = modules[found.site.down], found.optimum().float()
        with torch.no_grad():
            if down.bias is not None:
                down.bias.copy_(best[:, -1])
                best = best[:, :-1]
            down.weight.copy_(best.reshape(down.weight.shape))
    return pruned

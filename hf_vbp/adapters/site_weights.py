"""The weights of MLP sites in float64, for everything that computes with them. Pure tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor

from hf_vbp.adapters.base import MLPSite

KEPT_BYTES = 256 * 2**20
"""Float64 weights of all sites up to this size are copied once and kept; larger ones are copied when read."""


@dataclass(frozen=True, eq=False)
class SiteWeights:
    """The weights of one MLP site as float64 copies on the CPU.

    Attributes:
        fc1_weight: ``(hidden, in)``; for gated MLPs ``(hidden, 2 in)``, the rows of both projections.
        fc1_bias: ``(hidden,)`` or None; for gated MLPs ``(hidden, 2)``.
        fc2_weight: ``(out, hidden)``.
        fc2_bias: ``(out,)`` or None. Of a BatchNorm behind ``fc2``, what its running mean subtracts counts as bias.
    """

    fc1_weight: Tensor
    fc1_bias: Tensor | None
    fc2_weight: Tensor
    fc2_bias: Tensor | None

    @classmethod
    def of(cls, site: MLPSite) -> "SiteWeights":
        """Copy the weights of a site."""
        return cls(*_up(site), *_down(site))

    @property
    def hidden(self) -> int:
        """The number of hidden neurons."""
        return self.fc2_weight.shape[1]


class _ReadWhenUsed(SiteWeights):
    """The weights of a site that are copied when they are used first: most methods use ``fc2`` only."""

    def __init__(self, site: MLPSite) -> None:
        vars(self)["_site"] = site

    def __getattr__(self, name: str) -> Tensor | None:
        # Only called for what was not copied yet.
        for names, read in ((("fc1_weight", "fc1_bias"), _up), (("fc2_weight", "fc2_bias"), _down)):
            if name in names:
                vars(self).update(zip(names, read(vars(self)["_site"]), strict=True))
                found: Tensor | None = vars(self)[name]
                return found
        raise AttributeError(name)


def _up(site: MLPSite) -> tuple[Tensor, Tensor | None]:
    mlp = site.mlp
    rows = [_copy(up.weight).T if is_transposed(up) else _copy(up.weight).flatten(1) for up in mlp.ups]
    biases = [_copy(up.bias) for up in mlp.ups if up.bias is not None]
    if mlp.layout.packed:
        rows, biases = (
            [half for both in rows for half in both.chunk(2)],
            [b for both in biases for b in both.chunk(2)],
        )
    weight = torch.cat(rows, 1) if len(rows) > 1 else rows[0]
    return weight, (torch.stack(biases, 1) if len(biases) > 1 else biases[0]) if biases else None


def _down(site: MLPSite) -> tuple[Tensor, Tensor | None]:
    mlp = site.mlp
    bias = None if mlp.down.bias is None else _copy(mlp.down.bias)
    if mlp.after is not None:
        shift = -_copy(mlp.after.running_mean)
        bias = shift if bias is None else bias + shift
    weight = _copy(mlp.down.weight)
    return weight.T if is_transposed(mlp.down) else weight.flatten(1), bias


def _copy(parameter: Tensor) -> Tensor:
    # copy=True: for a float64 model on the CPU, `to` alone would share memory with the model. To the CPU first,
    # because some devices (MPS) have no float64.
    return parameter.detach().to("cpu").to(dtype=torch.float64, copy=True)


def is_transposed(projection: Any) -> bool:
    """Return whether the weight of a projection is ``(in, out)``, as that of transformers' Conv1D."""
    return type(projection).__name__ == "Conv1D"


class WeightsOfSites(Sequence[SiteWeights]):
    """The weights of all sites, each copied when it is read.

    The float64 copies of a whole model can take more memory than the model itself, so they are kept only while all of
    them fit into :data:`KEPT_BYTES`.
    """

    def __init__(self, sites: Sequence[MLPSite], kept_bytes: int = KEPT_BYTES) -> None:
        self._sites = sites
        size = 8 * sum(tensor.numel() for site in sites for tensor in site.weights().values())
        self._copies: dict[int, SiteWeights] | None = {} if size <= kept_bytes else None

    def __len__(self) -> int:
        return len(self._sites)

    @overload
    def __getitem__(self, index: int) -> SiteWeights: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[SiteWeights]: ...
    def __getitem__(self, index: int | slice) -> SiteWeights | Sequence[SiteWeights]:
        if isinstance(index, slice):
            return WeightsOfSites(self._sites[index])
        if self._copies is None:
            return _ReadWhenUsed(self._sites[index])
        position = range(len(self))[index]
        if position not in self._copies:
            self._copies[position] = SiteWeights.of(self._sites[position])
        return self._copies[position]

    def widths(self) -> list[int]:
        """Return the number of hidden neurons of each site, without copying anything."""
        return [site.intermediate_size for site in self._sites]

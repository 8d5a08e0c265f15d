"""The second pass where a normalization mixes the neurons: what the smaller MLP has, against what the dense one gives.

Removing a neuron of such an MLP (GRN of ConvNeXtV2, LayerNorm of EVA02) changes the others. The pass gives both
models the same input at each site, and gathers the moments of the hidden neurons that the smaller MLP really has,
together with the outputs of the dense MLP, to which the compensation then refits ``fc2``.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from hf_vbp.adapters.base import MLPSite
from hf_vbp.adapters.prepared import PreparedModel
from hf_vbp.calibration.feed import LocalBatch
from hf_vbp.calibration.padded_pixels import patch_sizes
from hf_vbp.calibration.source import Source
from hf_vbp.calibration.tokens import tokens_of
from hf_vbp.errors import DataError
from hf_vbp.inputs.batch import model_inputs
from hf_vbp.modeling.precision import eval_mode, own_precision
from hf_vbp.statistics.joint import JointMoments


def collect_joint_moments(
    dense: PreparedModel,
    pruned: nn.Module,
    pairs: Sequence[tuple[MLPSite, MLPSite]],
    data: Iterable[Mapping[str, Any]] | Source,
    *,
    limit: int | None = None,
    accelerator: Any | None = None,
) -> dict[int, JointMoments]:
    """Return the joint moments of some sites, by their index.

    Args:
        dense: The dense model.
        pruned: The pruned model, on the same device.
        pairs: The sites, each of the dense and of the pruned model.
        data: As for :func:`hf_vbp.collect_statistics`.
        limit: As for :func:`hf_vbp.collect_statistics`.
        accelerator: As for :func:`hf_vbp.collect_statistics`.

    Raises:
        DataError: There are no images.
    """
    source = Source.of(data, accelerator)
    processes, feed = source.processes, source.open(limit)
    sums: dict[int, JointMoments] = {}
    patches = patch_sizes(dense.model.config)
    with own_precision(dense.model, pruned), eval_mode(dense.model), eval_mode(pruned), _Taps(pairs) as taps:

        def work(batch: LocalBatch) -> None:
            if not batch.hashes:
                return
            inputs = model_inputs(dense.model, batch.inputs)
            with torch.no_grad():
                dense.model(**inputs)
                pruned(**inputs)
            for site, hidden, output in taps.take():
                images = len(batch.hashes)
                rows = [tokens_of(values, inputs, images, site.name, patches).rows() for values in (hidden, output)]
                found = JointMoments.of(*rows)
                sums[site.index] = sums[site.index].merge(found) if site.index in sums else found

        feed.walk(work)
    merged: dict[int, JointMoments] = {}
    for own in processes.gather(sums):
        for index, found in own.items():
            merged[index] = merged[index].merge(found) if index in merged else found
    if pairs and not merged:
        raise DataError("The data gave no images; the down projections are refitted on at least one.")
    return merged


class _Taps:
    """Gives the pruned MLPs the inputs of the dense ones, and keeps their hidden neurons and the dense outputs."""

    def __init__(self, pairs: Sequence[tuple[MLPSite, MLPSite]]) -> None:
        self.pairs = pairs
        self._inputs: dict[tuple[int, int], list[Tensor]] = {}
        self._outputs: dict[int, list[Tensor]] = {}
        self._hidden: dict[int, list[Tensor]] = {}
        self._hooks = ExitStack()

    def __enter__(self) -> "_Taps":
        for dense, pruned in self.pairs:
            for place, (up, small) in enumerate(zip(dense.mlp.ups, pruned.mlp.ups, strict=True)):
                self._listen(up, self._keep_input((dense.index, place)))
                self._listen(small, self._give_input((dense.index, place)))
            self._hooks.callback(dense.fc2.register_forward_hook(self._keep_output(dense)).remove)
            self._listen(pruned.fc2, self._keep_hidden(pruned))
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.close()

    def take(self) -> list[tuple[MLPSite, Tensor, Tensor]]:
        """Return hidden neurons and dense outputs of each call of each site, and forget them."""
        found = []
        for dense, _ in self.pairs:
            calls = zip(self._hidden.pop(dense.index, []), self._outputs.pop(dense.index, []), strict=True)
            found += [(dense, hidden, output) for hidden, output in calls]
        self._inputs.clear()
        return found

    def _listen(self, module: nn.Module, hook: Callable[..., Any]) -> None:
        self._hooks.callback(module.register_forward_pre_hook(hook).remove)

    def _keep_input(self, key: tuple[int, int]) -> Callable[..., Any]:
        return lambda _, inputs: self._inputs.setdefault(key, []).append(inputs[0])

    def _give_input(self, key: tuple[int, int]) -> Callable[..., Any]:
        return lambda _, inputs: (self._inputs[key].pop(0), *inputs[1:])

    def _keep_output(self, site: MLPSite) -> Callable[..., Any]:
        return lambda _, inputs, output: self._outputs.setdefault(site.index, []).append(site.by_neuron(output))

    def _keep_hidden(self, site: MLPSite) -> Callable[..., Any]:
        return lambda _, inputs: self._hidden.setdefault(site.index, []).append(site.by_neuron(inputs[0]))

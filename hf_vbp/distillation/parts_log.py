"""The parts of the loss between two log entries."""

from typing import Any

import torch

from hf_vbp.distillation.losses import LossParts


class PartsLog:
    """Sums the parts of the loss over micro-batches; gives their means per step over all processes."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._steps = 0.0

    def add(self, parts: LossParts, weight: float | torch.Tensor, share: float) -> None:
        """Take one micro-batch.

        Args:
            parts: Unweighted means over the micro-batch.
            weight: What the micro-batch counts among those of its step, 1 on the average.
            share: The share of the micro-batch in the step, one over their number.
        """
        for name, value in (("hard_loss", parts.hard), ("soft_loss", parts.soft)):
            if value is not None:
                # Kept on the device: reading a number would make the host wait for it.
                added = value.detach() * weight * share
                self._sums[name] = self._sums[name] + added if name in self._sums else added
        self._steps += share

    def means(self, accelerator: Any) -> dict[str, float]:
        """Return the mean of each part per step since the last call; every process must call it."""
        steps, sums = max(round(self._steps), 1), self._sums
        self._sums, self._steps = {}, 0.0
        return {name: float(accelerator.gather(value.reshape(1)).mean()) / steps for name, value in sums.items()}

"""The parts of the loss between two log entries."""

from typing import Any

import torch

from hf_vbp.distillation.losses import LossParts, Share


class PartsLog:
    """Sums the parts of the loss over micro-batches; gives their means per step over all processes."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._steps = 0.0

    def add(self, parts: LossParts, hard_share: Share, soft_share: Share, part: float) -> None:
        """Add one micro-batch.

        Args:
            parts: Unweighted means over the micro-batch.
            hard_share: The weight of its labelled images among the micro-batches of its step, 1 on average.
            soft_share: The weight of all its images, likewise.
            part: The part of the step that the micro-batch is, one over their number.
        """
        for name, value, share in (("hard_loss", parts.hard, hard_share), ("soft_loss", parts.soft, soft_share)):
            if value is not None:
                # Kept on the device: reading a number would make the host wait for it.
                added = value.detach() * share * part
                self._sums[name] = self._sums[name] + added if name in self._sums else added
        self._steps += part

    def means(self, accelerator: Any) -> dict[str, float]:
        """Return the mean of each part per step since the last call; every process must call it."""
        steps, sums = max(round(self._steps), 1), self._sums
        self._sums, self._steps = {}, 0.0
        return {name: float(accelerator.gather(value.reshape(1)).mean()) / steps for name, value in sums.items()}

"""The weights of the images of a micro-batch in their step, independent of the division of the step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_vbp.distillation.losses import Share
from hf_vbp.distillation.tasks import IGNORED, ProblemType

_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class StepCounts:
    """Numbers of images in a step, over all its micro-batches and processes.

    Attributes:
        images: All images, a scalar.
        known: Those whose label is known; several labels of an image count by the share that is known.
    """

    images: Tensor
    known: Tensor

    def shares(self, images: int, labels: Tensor | None, problem: ProblemType, parts: int) -> tuple[Share, Share]:
        """Return the weights of a micro-batch, of its labelled images and of all its images; 1 on average.

        Args:
            images: Its number of images.
            labels: Its labels.
            problem: The problem type of the model.
            parts: The number of micro-batches of the step, over all processes.
        """
        known = known_images(labels, images, problem).to(self.known.device)
        return known * parts / self.known.clamp_min(_TINY), images * parts / self.images.clamp_min(1.0)


def known_images(labels: Tensor | None, images: int, problem: ProblemType) -> Tensor:
    """Return the number of images with a known label, a float32 scalar."""
    if labels is None:
        return torch.zeros(())
    probabilities = labels.is_floating_point() and problem == "single_label_classification"
    if problem == "regression" or probabilities or not images or labels.numel() % images:
        return torch.tensor(float(images))
    return (labels != IGNORED).float().reshape(images, -1).mean(dim=-1).sum()


def count_step(
    batches: Sequence[Any], problem: ProblemType, *, device: torch.device, accelerator: Any, across: bool
) -> StepCounts:
    """Count the images of a step.

    Args:
        batches: The micro-batches of this process, dicts with ``pixel_values`` and ``labels``.
        problem: The problem type of the model.
        device: The device of the run.
        accelerator: Of accelerate.
        across: Whether images count the same across processes too; then every process must call this.
    """
    counts = torch.zeros(2, device=device)
    for batch in batches:
        images = len(batch["pixel_values"])
        known = known_images(batch.get("labels"), images, problem).to(device)
        counts = counts + torch.stack([torch.full_like(known, images), known])
    if across and accelerator.num_processes > 1:
        counts = accelerator.gather(counts[None]).sum(dim=0)
    return StepCounts(counts[0], counts[1])

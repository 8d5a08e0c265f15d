"""The teacher's logits, computed once where every epoch shows the same images."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Subset

from hf_vbp.distillation.teacher import Teacher
from hf_vbp.errors import ConfigurationError

TEACHER_LOGITS = "teacher_logits"
_COMPARED = 4


class WithTeacherLogits(Dataset[dict[str, Any]]):
    """A data set whose samples also hold the teacher's logits.

    Args:
        dataset: Samples, dicts with ``pixel_values``.
        logits: ``(len(dataset), classes)``.
    """

    def __init__(self, dataset: Any, logits: torch.Tensor) -> None:
        self.dataset = dataset
        self.logits = logits

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.dataset[index], TEACHER_LOGITS: self.logits[index]}


def check_deterministic(dataset: Any) -> None:
    """Refuse a data set that cannot be indexed, or that does not give the same images in every epoch.

    Raises:
        ConfigurationError: It does not; the message contains the setting to change.
    """
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise ConfigurationError(
            "cache_teacher_logits needs images with an index, not a stream; set it to false, or store the data."
        )
    indices = range(min(_COMPARED, len(dataset)))
    shown = []
    for epoch in (0, 1):
        if hasattr(dataset, "set_epoch"):
            dataset.set_epoch(epoch)
        shown.append([torch.as_tensor(dataset[index]["pixel_values"]) for index in indices])
    if hasattr(dataset, "set_epoch"):
        dataset.set_epoch(0)
    if not all(torch.equal(first, second) for first, second in zip(*shown, strict=True)):
        raise ConfigurationError(
            "cache_teacher_logits needs the same images in every epoch, but they are augmented at random. Set "
            'cache_teacher_logits to false, or the augmentation to "none".'
        )


def compute_logits(
    teacher: Teacher,
    dataset: Any,
    *,
    batch_size: int,
    collate: Callable[[list[Any]], dict[str, Any]],
    device: torch.device,
    accelerator: Any,
    num_workers: int = 0,
) -> torch.Tensor:
    """Run the teacher once over a data set, shared among all processes.

    Args:
        teacher: The teacher.
        dataset: Samples, dicts with ``pixel_values``, that can be indexed.
        batch_size: Images per batch.
        collate: Makes a batch of samples.
        device: Where to compute.
        accelerator: Of accelerate; every process gets the logits of all images.
        num_workers: Processes that decode images.

    Returns:
        The logits ``(len(dataset), classes)`` float32 on the CPU, in the order of the data set.
    """
    number, processes = len(dataset), accelerator.num_processes
    share = -(-number // processes)
    # Each process takes one run of images; the last ones repeat an image where the numbers do not divide.
    mine = [min(accelerator.process_index * share + offset, number - 1) for offset in range(share)]
    loader = DataLoader(
        Subset(dataset, mine), batch_size=batch_size, collate_fn=collate, num_workers=num_workers, shuffle=False
    )
    local = torch.cat(list(_logits(teacher, loader, device)))
    gathered: torch.Tensor = accelerator.gather(local)
    return gathered.cpu()[:number]


def _logits(teacher: Teacher, loader: Any, device: torch.device) -> Iterator[torch.Tensor]:
    for batch in loader:
        yield teacher(batch["pixel_values"].to(device))

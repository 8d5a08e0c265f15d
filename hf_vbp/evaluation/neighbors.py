"""Classification by the nearest neighbors among labelled images, for backbones without a head."""

import torch
from torch import Tensor

from hf_vbp.errors import ConfigurationError, LabelError, NonFiniteError

NEIGHBORS = 20
"""Neighbors that vote where no number is given, or all images of a smaller bank."""
TEMPERATURE = 0.07
"""Similarities are divided by it in the weights of the votes, as in DINO."""
_AT_ONCE = 256


def nearest_classes(queries: Tensor, bank: Tensor, labels: Tensor, neighbors: int | None = None) -> Tensor:
    """Return the class of each query by a weighted vote of its nearest neighbors.

    Features are compared by their cosine ``s``; each of the nearest images votes for its label with the weight
    ``exp(s / 0.07)`` (the protocol of DINO). Computed in float64 on the CPU.

    Args:
        queries: Features ``(queries, dim)``.
        bank: Features of labelled images ``(images, dim)``.
        labels: Their labels ``(images,)`` int64, not negative.
        neighbors: Number of neighbors; by default 20, or all images of a smaller bank.

    Returns:
        ``(queries,)`` int64.

    Raises:
        ConfigurationError: There are more neighbors than images in the bank, or fewer than one.
        NonFiniteError: A feature is not finite, or zero.

    Example:
        >>> import torch
        >>> from hf_vbp.evaluation import nearest_classes
        >>> bank = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> nearest_classes(torch.tensor([[0.9, 0.1]]), bank, torch.tensor([3, 5])).tolist()
        [3]
    """
    count = number_of_neighbors(neighbors, len(bank))
    directions, known = _directions(bank, "bank"), labels.cpu()
    found = []
    for few in torch.split(_directions(queries, "evaluation"), _AT_ONCE):
        similarities, nearest = (few @ directions.T).topk(count, dim=1)
        # Only differences of similarities matter, and the highest is subtracted, so that no weight overflows.
        weights = ((similarities - similarities[:, :1]) / TEMPERATURE).exp()
        votes = torch.zeros(len(few), int(known.max()) + 1, dtype=torch.float64)
        found.append(votes.scatter_add_(1, known[nearest], weights).argmax(1))
    return torch.cat(found)


def number_of_neighbors(neighbors: int | None, bank: int) -> int:
    """Return the number of neighbors that vote.

    Args:
        neighbors: As requested; None for the default.
        bank: Number of images in the bank.

    Raises:
        ConfigurationError: There are more neighbors than images in the bank, or fewer than one.
    """
    if neighbors is None:
        return min(NEIGHBORS, bank)
    if not 1 <= neighbors <= bank:
        raise ConfigurationError(
            f"neighbors is {neighbors}, but the bank has {bank} images: give a number from 1 to {bank}, or more "
            "images."
        )
    return neighbors


def check_classes(bank: Tensor, queries: Tensor) -> None:
    """Refuse a bank that has none of the classes of the evaluation images.

    Args:
        bank: Labels of the bank ``(images,)``.
        queries: Labels of the evaluation images ``(images,)``.

    Raises:
        LabelError: No label occurs in both.
    """
    ours, others = set(queries.tolist()), set(bank.tolist())
    if not ours & others:
        raise LabelError(
            f"No class of the evaluation images ({_few(ours)}) is among those of the bank ({_few(others)}): label "
            "both with the same classes, in the same order."
        )


def _few(labels: set[int]) -> str:
    return ", ".join(map(str, sorted(labels)[:5])) + (", ..." if len(labels) > 5 else "")


def _directions(features: Tensor, images: str) -> Tensor:
    features = features.cpu().double()
    lengths = features.norm(dim=1, keepdim=True)
    usable = (lengths[:, 0] > 0) & lengths[:, 0].isfinite()
    if not bool(usable.all()):
        raise NonFiniteError(
            f"The feature of image {int(usable.int().argmin())} of the {images} images (counted from 0) is zero, NaN "
            "or infinite, so that it has no neighbors. Remove this image, or load the model in float32."
        )
    directions: Tensor = features / lengths
    return directions

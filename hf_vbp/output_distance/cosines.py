"""Distances of directions: the cosine of embeddings, and the neighbors of features."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_vbp.errors import ConfigurationError
from hf_vbp.output_distance.formula import Formula
from hf_vbp.output_distance.probabilities import softmax_cotangent, softmax_kl
from hf_vbp.output_distance.refusal import naming_the_image, refuse_images

BANK_SIZE = 500
"""The largest number of images in a bank of neighbors."""
SMALLEST_BANK = 3


@dataclass(frozen=True, eq=False)
class Cosine(Formula):
    """Embeddings whose length does not matter: 1 - cosine.

    ``H = (I - u u^T) / |y|^2`` for the direction ``u`` of the embedding ``y``; ``v = (e - u (u . e)) / |y|``.

    Args:
        component_dim: The dimension of the embedding.
        texts: Embeddings of class names ``(classes, dim)`` for the figure ``zero_shot_agreement``.
    """

    component_dim: int = -1
    texts: Tensor | None = None
    figure: ClassVar[str] = "cosine_distance"

    def _cotangent(self, values: Tensor, noise: Tensor, counted: Tensor, images: Sequence[int]) -> Tensor:
        u, length = _directions(values, counted)
        return (noise - u * (u * noise).sum(-1, keepdim=True)) / length

    def _figures(
        self, dense: Tensor, pruned: Tensor, counted: Tensor, images: Sequence[int] | None
    ) -> dict[str, Tensor]:
        (u, _), (w, _) = _directions(dense, counted), _directions(pruned, counted)
        figures = {"cosine_distance": _cosine_distance(u, w)}
        if self.texts is not None:
            if self.texts.dim() != 2 or self.texts.shape[1] != u.shape[-1]:
                raise ConfigurationError(
                    f"The embeddings of the texts have the shape {tuple(self.texts.shape)}; expected (classes, "
                    f"{u.shape[-1]}): use the text tower of the same model."
                )
            t = torch.nn.functional.normalize(self.texts.to(u), dim=-1)
            same = (u @ t.T).argmax(-1) == (w @ t.T).argmax(-1)
            figures["zero_shot_agreement"] = same.to(u.dtype)
        return figures


@dataclass(frozen=True, eq=False)
class NeighborBank:
    """Features of calibration images, among which neighbors are sought.

    Args:
        features: ``(bank, dim)`` float, any length.
        images: Number of each of these images in the whole set, so that no image is its own neighbor; None where
            they are not part of it.

    Raises:
        ConfigurationError: There are too few or too many images, or not one number for each.
        NonFiniteError: A feature is not finite, or zero.
    """

    features: Tensor
    images: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.features.shape)
        if len(shape) != 2 or not SMALLEST_BANK <= shape[0] <= BANK_SIZE:
            raise ConfigurationError(
                f"The bank of neighbors has features of shape {shape}; expected (images, dim) with {SMALLEST_BANK} "
                f"to {BANK_SIZE} images: use the first images of the calibration set."
            )
        if self.images is not None and len(self.images) != shape[0]:
            raise ConfigurationError(
                f"The bank of neighbors has {shape[0]} features, but {len(self.images)} numbers of images: give one "
                "number for each."
            )
        rows = self.features.detach()[:, None].float()
        with naming_the_image(self.images):
            finite = rows.isfinite().flatten(1).all(1)
            refuse_images(finite, "holds NaN or infinity", "Remove this image from the bank of neighbors.")
            _directions(rows, torch.ones(shape[0], 1, dtype=torch.bool, device=rows.device))


@dataclass(frozen=True, eq=False)
class Neighbors(Formula):
    """Features that are compared with those of other images: KL(dense || pruned) of the softmax over similarities.

    With the direction ``u = y / |y|``, the directions ``B`` of the bank and the similarities ``s = B u / t``, the
    distance is that of logits ``s``. ``ds/dy = (B - (B u) u^T) / (t |y|)``, and with the softmax cotangent ``w`` of
    ``s``: ``v = (B^T w - u (u . B^T w)) / (t |y|)``. The bank remains that of the dense model.

    Args:
        bank: The features that are compared with. None until they are known: see
            :meth:`hf_vbp.output_distance.OutputDistance.with_banks`.
        temperature: ``t``.
        component_dim: The dimension of the features.
    """

    bank: NeighborBank | None = None
    temperature: float = 0.05
    component_dim: int = -1
    figure: ClassVar[str] = "neighbor_kl"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigurationError(f"The temperature is {self.temperature}; expected a number above 0, as 0.05.")

    def _cotangent(self, values: Tensor, noise: Tensor, counted: Tensor, images: Sequence[int]) -> Tensor:
        u, length = _directions(values, counted)
        bank = self._bank_directions(u)
        w = softmax_cotangent(self._similarities(u, bank, images), noise)
        pulled = w @ bank
        return (pulled - u * (u * pulled).sum(-1, keepdim=True)) / (self.temperature * length)

    def _figures(
        self, dense: Tensor, pruned: Tensor, counted: Tensor, images: Sequence[int] | None
    ) -> dict[str, Tensor]:
        (u, _), (w, _) = _directions(dense, counted), _directions(pruned, counted)
        bank = self._bank_directions(u)
        before, after = self._similarities(u, bank, images), self._similarities(w, bank, images)
        same = before.argmax(-1) == after.argmax(-1)
        return {
            "neighbor_kl": softmax_kl(before, after),
            "neighbor_agreement": same.to(u.dtype),
            "cosine_distance": _cosine_distance(u, w),
        }

    def _noise_width(self, components: int) -> int:
        return len(self._known_bank().features)

    def _known_bank(self) -> NeighborBank:
        if self.bank is None:
            raise ConfigurationError(
                "The features of a backbone are compared with those of other images, but no bank is set: compute the "
                f"features of up to {BANK_SIZE} calibration images first and pass them to with_banks."
            )
        return self.bank

    def _bank_directions(self, like: Tensor) -> Tensor:
        features = self._known_bank().features
        if features.shape[1] != like.shape[-1]:
            raise ConfigurationError(
                f"The features have {like.shape[-1]} components, but those of the bank {features.shape[1]}: make the "
                "bank from the same output of the dense model."
            )
        return torch.nn.functional.normalize(features.detach().to(like), dim=-1)

    def _similarities(self, u: Tensor, bank: Tensor, images: Sequence[int] | None) -> Tensor:
        s = u @ bank.T / self.temperature
        known = self._known_bank().images
        if images is None or known is None:
            return s
        own = torch.tensor(list(images), device=s.device)[:, None] == torch.tensor(known, device=s.device)
        return s.masked_fill(own[:, None], -torch.inf)


def _directions(values: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Return the directions and lengths of ``(images, positions, components)``."""
    length = values.norm(dim=-1, keepdim=True)
    refuse_images(
        ((length[..., 0] > 0) | ~counted).all(1), "is zero, so that it has no direction", "Remove this image."
    )
    length = torch.where(length > 0, length, 1.0)
    return values / length, length


def _cosine_distance(u: Tensor, w: Tensor) -> Tensor:
    # 1 - u.w would cancel for small distances.
    return (u - w).square().sum(-1) / 2

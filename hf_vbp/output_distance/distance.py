"""The distance of a model's whole output: the sum over its tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from hf_vbp.errors import ConfigurationError, UnsupportedModelError
from hf_vbp.modeling.arithmetic import arithmetic_dtype
from hf_vbp.output_distance.cosines import NeighborBank, Neighbors
from hf_vbp.output_distance.formula import Formula
from hf_vbp.output_distance.kinds import OutputKind
from hf_vbp.output_distance.naming import describe, named_outputs
from hf_vbp.output_distance.noise import ImageNoise
from hf_vbp.output_distance.rows import counted_positions

Reading = Literal["whole", "first_token", "mean_of_tokens", "flat"]
"""How a tensor is read: unchanged; its first token; the mean of its tokens; ``(images, dim, 1, 1)`` flattened."""


@dataclass(frozen=True)
class OutputPart:
    """One tensor that counts as output.

    Attributes:
        name: The name in figures, cotangents and masks.
        kind: The kind of output.
        key: The name in the model's output.
        index: The position in a tuple of tensors under this name; None for a tensor.
        reading: How the tensor is read.
        formula: The distance; by default that of the kind.
        weight: What the distance is multiplied by in the sum.
    """

    name: str
    kind: OutputKind
    key: str
    index: int | None = None
    reading: Reading = "whole"
    formula: Formula | None = None
    weight: float = 1.0

    @property
    def distance(self) -> Formula:
        """The formula of this part."""
        return self.kind.formula if self.formula is None else self.formula

    def read(self, tensor: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the values that count, and the mask of their positions.

        Args:
            tensor: The tensor of the model's output.
            mask: Which positions count; of tokens, where the reading is one of them.
        """
        if self.reading == "first_token":
            return tensor[:, 0], None
        if self.reading == "flat":
            return tensor.flatten(1), None
        if self.reading == "mean_of_tokens":
            counted = counted_positions(mask, tensor, -1)
            # In float32 or more, since features of half precision lose digits in a sum.
            values = tensor.flatten(1, -2).to(arithmetic_dtype(tensor.dtype))
            total = torch.where(counted[..., None], values, 0.0).sum(1)
            return total / counted.sum(1, keepdim=True), None
        return tensor, mask


@dataclass(frozen=True)
class OutputDistance:
    """How far a model's output is from that of the dense model.

    The distance of the whole output is the sum of the parts' distances times their weights. All distances are in nats,
    so that the default weights are 1. The parts' cotangents are independent, so that one backward pass of their inner
    product with the output gives gradients ``g`` with ``E[g g^T] = sum of J^T H J`` over the parts.

    Attributes:
        parts: The tensors that count.
        model_class_name: The name of the model's class.
    """

    parts: tuple[OutputPart, ...]
    model_class_name: str = "the model"

    @property
    def without_bank(self) -> tuple[str, ...]:
        """The names of the parts that need features of other images before they can be used."""
        return tuple(p.name for p in self.parts if isinstance(p.distance, Neighbors) and p.distance.bank is None)

    def with_banks(self, features: Mapping[str, Tensor], images: Sequence[int] | None = None) -> "OutputDistance":
        """Return the distance with the features of calibration images as banks of neighbors.

        Args:
            features: For each part of :attr:`without_bank` the dense model's features ``(bank, dim)``, as of
                :meth:`values`, joined over batches.
            images: Number of each of these images in the whole set; None where they are not part of it.

        Raises:
            ConfigurationError: The features of a part are missing, or unusable as a bank.
        """
        missing = sorted(set(self.without_bank) - set(features))
        if missing:
            raise ConfigurationError(
                f"No features were given for {', '.join(missing)}: pass those of the dense model for a few hundred "
                "calibration images."
            )
        known = None if images is None else tuple(images)
        parts = []
        for part in self.parts:
            if isinstance(part.distance, Neighbors) and part.name in features:
                bank = NeighborBank(features[part.name].detach().clone(), known)
                part = replace(part, formula=replace(part.distance, bank=bank))
            parts.append(part)
        return replace(self, parts=tuple(parts))

    def values(self, output: Any, masks: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return the tensors that count, by the name of their part, with their graph.

        Args:
            output: The model's output.
            masks: Which positions count, by the name of the part; all where a part has none.

        Raises:
            UnsupportedModelError: The output lacks a part.
            ConfigurationError: A mask belongs to no part.
        """
        return {name: values for name, (values, _) in self._read(output, masks).items()}

    def cotangents(
        self, output: Any, noise: ImageNoise, masks: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Return a random cotangent for each part of the dense model's output.

        Args:
            output: The model's output.
            noise: The noise of the images; ``noise.with_draw(k)`` gives further cotangents.
            masks: Which positions count, by the name of the part.

        Returns:
            Tensors of the shapes of :meth:`values`, float32 or float64.
        """
        found, read = {}, self._read(output, masks)
        for stream, part in enumerate(self.parts):
            values, mask = read[part.name]
            v = part.distance.cotangent(values, noise.with_stream(stream), mask)
            found[part.name] = v * part.weight**0.5
        return found

    def inner_product(
        self, output: Any, cotangents: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Return the sum of products of output and cotangents, a scalar whose gradient is ``J^T v``.

        Args:
            output: The model's output, with its graph.
            cotangents: As from :meth:`cotangents`.
            masks: As for :meth:`cotangents`.
        """
        total = torch.zeros(())
        for name, values in self.values(output, masks).items():
            v = cotangents[name]
            # Where the cotangent is zero the output may be infinite, as padded logits.
            product = torch.where(v != 0, values.to(v.dtype), 0.0) * v
            total = total.to(v.device, torch.promote_types(total.dtype, v.dtype)) + product.sum()
        return total

    def distances(
        self,
        dense: Any,
        pruned: Any,
        masks: Mapping[str, Tensor] | None = None,
        images: Sequence[int] | None = None,
    ) -> dict[str, Tensor]:
        """Return the distance and the figures of each image.

        Args:
            dense: Output of the dense model.
            pruned: Output of the pruned model for the same batch.
            masks: As for :meth:`cotangents`.
            images: Number of each image in the whole set, where a bank of neighbors contains them.

        Returns:
            ``(images,)`` float64 for ``distance`` and each figure. The figures of several parts are named
            ``PART.FIGURE``, and each part has its own ``PART.distance``.
        """
        before, after = self._read(dense, masks), self._read(pruned, masks)
        figures: dict[str, Tensor] = {}
        total: Tensor | float = 0.0
        for part in self.parts:
            (first, mask), (second, _) = before[part.name], after[part.name]
            found = part.distance.distance(first, second, mask, images)
            total = total + found["distance"] * part.weight
            figures |= found if len(self.parts) == 1 else {f"{part.name}.{name}": v for name, v in found.items()}
        return {**figures, "distance": torch.as_tensor(total)}

    def _read(self, output: Any, masks: Mapping[str, Tensor] | None) -> dict[str, tuple[Tensor, Tensor | None]]:
        masks = masks or {}
        unknown = sorted(set(masks) - {part.name for part in self.parts})
        if unknown:
            raise ConfigurationError(
                f"There is a mask for {', '.join(unknown)}, but the output has the parts "
                f"{', '.join(part.name for part in self.parts)}: name the masks as the parts."
            )
        named = named_outputs(output, self.model_class_name)
        read = {}
        for part in self.parts:
            tensor = named.get(part.key)
            if part.index is not None and isinstance(tensor, Sequence) and part.index < len(tensor):
                tensor = tensor[part.index]
            if not isinstance(tensor, Tensor):
                raise UnsupportedModelError(
                    f"{self.model_class_name} returned {describe(named)}; expected the output {part.name} as well: "
                    "run it with the same inputs and options as at first."
                )
            read[part.name] = part.read(tensor, masks.get(part.name))
        return read

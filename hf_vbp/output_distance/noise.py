"""Normal noise that depends on nothing but a seed and the number of an image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from hf_vbp.errors import ConfigurationError

_WORD = (1 << 64) - 1


@dataclass(frozen=True)
class ImageNoise:
    """Standard normal noise for the images of a batch.

    The generator is Philox with the key (seed, number of the image) and the counter (draw, stream). The noise of an
    image therefore does not depend on batches, processes, devices or padding.

    Args:
        seed: Any integer; its lowest 64 bits count.
        images: Number of each image of the batch in the whole set.
        draw: Number of the draw, for several cotangents of the same images.
        stream: Number of the tensor, for outputs of several tensors.
    """

    seed: int
    images: Sequence[int]
    draw: int = 0
    stream: int = 0

    def with_draw(self, draw: int) -> "ImageNoise":
        """Return independent noise for the same images.

        Args:
            draw: Number of the draw.
        """
        return replace(self, draw=draw)

    def with_stream(self, stream: int) -> "ImageNoise":
        """Return independent noise for another tensor of the same images.

        Args:
            stream: Number of the tensor.
        """
        return replace(self, stream=stream)

    def of(self, part: slice) -> "ImageNoise":
        """Return the noise of some of the images.

        Args:
            part: Which images of the batch.
        """
        return replace(self, images=self.images[part])

    def at(self, counted: Tensor, width: int) -> Tensor:
        """Return noise for the positions that count, and zeros for the others.

        Positions that do not count consume no random numbers.

        Args:
            counted: ``(images, positions)`` bool.
            width: Random numbers per position.

        Returns:
            ``(images, positions, width)`` float32 on the device of ``counted``.

        Raises:
            ConfigurationError: There is not one number for each image.
        """
        check_numbers(self.images, len(counted))
        mask = counted.cpu()
        noise = torch.zeros(*mask.shape, width)
        for row, image in enumerate(self.images):
            positions = int(mask[row].sum())
            drawn = self._generator(image).standard_normal(positions * width, dtype=np.float32)
            noise[row, mask[row]] = torch.from_numpy(drawn).view(positions, width)
        return noise.to(counted.device)

    def _generator(self, image: int) -> np.random.Generator:
        key = np.array([self.seed & _WORD, image & _WORD], dtype=np.uint64)
        # The generator counts in the first word.
        counter = np.array([0, 0, self.draw & _WORD, self.stream & _WORD], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key, counter=counter))


def check_numbers(images: Sequence[int], rows: int) -> None:
    """Refuse numbers of images that are not one for each image of an output.

    Args:
        images: Number of each image in the whole set.
        rows: The size of the output's first dimension.

    Raises:
        ConfigurationError: They are more or fewer.
    """
    if len(images) != rows:
        raise ConfigurationError(
            f"The numbers of {len(images)} images were given, but the output has {rows}: pass the number of each "
            "image of the batch, and an output whose first dimension is the images."
        )

"""Refuse the output of one image of a batch by its number."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from hf_vbp.errors import NonFiniteError


class _UnusableImage(Exception):
    """The output of an image cannot be used; becomes a :class:`NonFiniteError` where its number is known."""

    def __init__(self, position: int, fault: str, advice: str) -> None:
        super().__init__(fault)
        self.position, self.fault, self.advice = position, fault, advice


def refuse_images(good: Tensor, fault: str, advice: str) -> None:
    """Refuse outputs of which an image is unusable; call it inside :func:`naming_the_image`.

    Args:
        good: ``(images,)`` bool.
        fault: What is wrong with the output of the others.
        advice: What to do next, as a sentence.
    """
    if not bool(good.all()):
        raise _UnusableImage(int(good.int().argmin()), fault, advice)


@contextmanager
def naming_the_image(images: Sequence[int] | None, start: int = 0) -> Iterator[None]:
    """Turn a refusal inside the context into an error that names the image.

    Args:
        images: Number of each image of the batch in the whole set; None where it is not known.
        start: Where in the batch the images inside the context start.

    Raises:
        NonFiniteError: The output of an image was refused.
    """
    try:
        yield
    except _UnusableImage as error:
        position = start + error.position
        number = f"{position} of the batch" if images is None else f"{images[position]}"
        raise NonFiniteError(f"The output for image {number} (counted from 0) {error.fault}. {error.advice}") from None

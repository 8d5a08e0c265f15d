"""From the bytes of an image file to an RGB picture, and what is done with files that are not images."""

import io
import json
import os
import struct
import tempfile
import warnings
import weakref
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_vbp.errors import DataError, LabelError

if TYPE_CHECKING:
    from PIL.Image import Image

_WORKER_PREFIX = "Caught "


class _OneSentence(Exception):
    """An error that reads the same when a worker process of a ``DataLoader`` raised it.

    The loader raises it again with the worker's traceback as its message, of which only the last line, after
    the name of the class, is meant for the user.
    """

    def __init__(self, message: str) -> None:
        if message.startswith(_WORKER_PREFIX):
            message = message.rstrip().rpartition(f"{type(self).__name__}: ")[2]
        super().__init__(message)


class UnreadableImageError(_OneSentence, DataError):
    """A file that is not an image, or an image that is cut short."""


class StreamedLabelError(_OneSentence, LabelError):
    """A label met on the way that the model does not have."""


@dataclass(frozen=True)
class BadImage:
    """An image that was left out, by name, and what the decoder said."""

    name: str
    reason: str


class BadImageLog:
    """The images that were left out, gathered from all worker processes of one loader.

    Worker processes only ever append whole lines to one temporary file, so that nothing has to be drained and
    no worker can block; the file goes when the log does.
    """

    def __init__(self) -> None:
        handle, self._path = tempfile.mkstemp(prefix="hf_vbp_bad_images_", suffix=".jsonl")
        os.close(handle)
        self._owner = os.getpid()
        weakref.finalize(self, _remove, self._path, self._owner)

    def add(self, bad: BadImage) -> None:
        """Note one image."""
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(handle, (json.dumps(asdict(bad)) + "\n").encode())
        finally:
            os.close(handle)

    def read(self) -> list[BadImage]:
        """Return every image once, however many passes were made, in the order of their names."""
        lines = Path(self._path).read_text(encoding="utf-8").splitlines()
        named = {bad.name: bad for bad in (BadImage(**json.loads(line)) for line in lines)}
        return [named[name] for name in sorted(named)]


def _remove(path: str, owner: int) -> None:
    """Remove the file in the process that made it: a forked worker that ends must leave it alone."""
    if os.getpid() == owner:
        Path(path).unlink(missing_ok=True)


def decode(image: Any, name: str) -> "Image":
    """Return an image in RGB, upright.

    Args:
        image: A path, the bytes of a file, a Pillow image, an array ``(height, width[, 3])`` of uint8, or the
            ``{"bytes", "path"}`` of ``datasets``.
        name: What to call it in an error.

    Raises:
        UnreadableImageError: The file is missing, is not an image, or is cut short.
    """
    from PIL import Image as PILImage

    try:
        # Pillow warns about pictures of more than 89 million pixels; twice that it refuses, and so do we.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PILImage.DecompressionBombWarning)
            return _upright_rgb(_open(image))
    except (OSError, SyntaxError, ValueError, TypeError, EOFError, struct.error, zlib.error) as error:
        raise _unreadable(name, error) from error
    except PILImage.DecompressionBombError as error:
        raise _unreadable(name, error) from error


def check_header(path: Path, name: str) -> None:
    """Refuse a file whose first bytes are not those of an image; the pixels are not decoded.

    Raises:
        UnreadableImageError: The file is missing or is not an image.
    """
    from PIL import Image as PILImage

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PILImage.DecompressionBombWarning)
            PILImage.open(path).close()
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise _unreadable(name, error) from error
    except PILImage.DecompressionBombError as error:
        raise _unreadable(name, error) from error


def reason(error: BaseException | None) -> str:
    """Return what the decoder said, without the address of the buffer that it was given."""
    return str(error).split("<_io.")[0].strip().replace("\n", " ") or type(error).__name__


def _unreadable(name: str, error: BaseException) -> UnreadableImageError:
    return UnreadableImageError(
        f"{name} cannot be read as an image ({reason(error)}): remove or replace it, or leave such files out with "
        f'on_bad_image="skip".'
    )


def _open(image: Any) -> "Image":
    from PIL import Image as PILImage

    if isinstance(image, PILImage.Image):
        return image
    if isinstance(image, str | Path):
        # Read whole, because Pillow keeps a file open when decoding it fails.
        return PILImage.open(io.BytesIO(Path(image).read_bytes()))
    if isinstance(image, bytes):
        return PILImage.open(io.BytesIO(image))
    if isinstance(image, dict) and image.get("bytes") is not None:
        return PILImage.open(io.BytesIO(image["bytes"]))
    if isinstance(image, dict) and image.get("path") is not None:
        from datasets import Image as ImageFeature

        opened: PILImage.Image = ImageFeature().decode_example(image)  # also reads paths on the Hub
        return opened
    if hasattr(image, "__array_interface__"):
        return PILImage.fromarray(image)
    raise TypeError(f"A {type(image).__name__} is no image.")


def _upright_rgb(image: "Image") -> "Image":
    """Turn the image as its EXIF data asks, as transformers' pipelines do, and convert it to RGB."""
    from PIL import Image as PILImage
    from PIL import ImageOps

    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "I;16", "I;16B", "I;16L"):
        # Pillow clips 16 bits to 8 where it should scale them.
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == "RGB" and type(image) is PILImage.Image else image.convert("RGB")

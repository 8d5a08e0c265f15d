"""Decode image files to RGB, and record the files that are not images."""

import io
import json
import math
import os
import stat
import struct
import tempfile
import warnings
import weakref
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_vbp.errors import DataError, LabelError

if TYPE_CHECKING:
    from PIL.Image import Image

_WORKER_PREFIX = "Caught "
_BYTE, _WORD = 255, 65535
_DARKEST = 8
_PNG = b"\x89PNG\r\n\x1a\n"


class _OneSentence(Exception):
    """An error whose message is the same when a worker process of a ``DataLoader`` raised it.

    The loader raises it again with the worker's traceback as its message, of which only the last line, after
    the name of the class, is for the user.
    """

    def __init__(self, message: str) -> None:
        if message.startswith(_WORKER_PREFIX):
            message = message.rstrip().rpartition(f"{type(self).__name__}: ")[2]
        super().__init__(message)


class UnreadableImageError(_OneSentence, DataError):
    """A file that is not an image, or an image that is cut short."""


class StreamedLabelError(_OneSentence, LabelError):
    """A label of a single image that does not belong to the model."""


@dataclass(frozen=True)
class BadImage:
    """An image that was skipped: its name, and the message of the decoder."""

    name: str
    reason: str


class BadImageLog:
    """The images that were skipped, gathered from all worker processes of one loader.

    Worker processes only append whole lines to one temporary file, so that no queue has to be emptied and no worker
    can block. The file is removed with the log.
    """

    def __init__(self) -> None:
        handle, self._path = tempfile.mkstemp(prefix="hf_vbp_bad_images_", suffix=".jsonl")
        os.close(handle)
        self._owner = os.getpid()
        weakref.finalize(self, _remove, self._path, self._owner)

    def add(self, bad: BadImage) -> None:
        """Add one image."""
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(handle, (json.dumps(asdict(bad)) + "\n").encode())
        finally:
            os.close(handle)

    def read(self) -> list[BadImage]:
        """Return every image once, for any number of passes, in the order of their names."""
        lines = Path(self._path).read_text(encoding="utf-8").splitlines()
        named = {bad.name: bad for bad in (BadImage(**json.loads(line)) for line in lines)}
        return [named[name] for name in sorted(named)]


def _remove(path: str, owner: int) -> None:
    """Remove the file in the process that created it, not in a forked worker that ends."""
    if os.getpid() == owner:
        Path(path).unlink(missing_ok=True)


class DamagedShard:
    """A record in place of the images that could not be read from a damaged tar shard."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


def decode(image: Any, name: str) -> "Image":
    """Return an image in RGB, upright.

    Args:
        image: A path, the bytes of a file, a Pillow image, an array or nested lists ``(height, width[, 3])`` of uint8,
            or the ``{"bytes", "path"}`` of ``datasets``.
        name: The name of the image for an error.

    Raises:
        UnreadableImageError: The file is missing, is not an image, is cut short, or holds values whose range is not
            known (32-bit values that are neither floats from 0 to 1 nor values of 8 or 16 bits).
    """
    if isinstance(image, DamagedShard):
        raise UnreadableImageError(
            f"The shard {name} is damaged ({image.reason}): fetch or write it again, or skip what is damaged with "
            f'on_bad_image="skip" (--on-bad-image skip).'
        ) from OSError(image.reason)
    with _readable(name):
        return _upright_rgb(_open(image))


def check_header(path: Path, name: str) -> None:
    """Refuse a file whose first bytes are not those of an image; the pixels are not decoded.

    Raises:
        UnreadableImageError: The file is missing or is not an image.
    """
    from PIL import Image as PILImage

    with _readable(name):
        _check_regular(path)
        try:
            PILImage.open(path).close()
        except ValueError:
            # A PNG with much text, which is removed when the file is read whole.
            _open(path).close()


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Turn the errors of a decoder into one that names the image."""
    from PIL import Image as PILImage

    try:
        # Pillow warns about images of more than 89 million pixels and refuses twice as many; hf_vbp does the same.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PILImage.DecompressionBombWarning)
            yield
    except (OSError, SyntaxError, ValueError, TypeError, EOFError, struct.error, zlib.error) as error:
        raise _unreadable(name, error) from error
    except PILImage.DecompressionBombError as error:
        raise _unreadable(name, error) from error


def reason(error: BaseException | None) -> str:
    """Return the message of the decoder on one line, without the address of the buffer that it was given."""
    text = printable(str(error).split("<_io.")[0].strip())
    return " ".join(text.split()) or type(error).__name__


def printable(text: str) -> str:
    """Return a text with the bytes of file names that are not UTF-8 replaced, so that it can be printed and stored."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace") if not text.isascii() else text


def _unreadable(name: str, error: BaseException) -> UnreadableImageError:
    return UnreadableImageError(
        f"{name} cannot be read as an image ({reason(error)}): remove or replace it, or skip such files with "
        f'on_bad_image="skip" (--on-bad-image skip).'
    )


def _open(image: Any) -> "Image":
    from PIL import Image as PILImage

    if isinstance(image, PILImage.Image):
        return image
    if isinstance(image, str | Path):
        _check_regular(image)
        # Read whole, because Pillow keeps a file open when decoding it fails.
        return _open_bytes(Path(image).read_bytes())
    if isinstance(image, bytes):
        return _open_bytes(image)
    if isinstance(image, dict) and image.get("bytes") is not None:
        return _open_bytes(image["bytes"])
    if isinstance(image, dict) and image.get("path") is not None:
        path = str(image["path"])
        if "://" not in path:
            return _open(path)
        from datasets import Image as ImageFeature

        opened: PILImage.Image = ImageFeature().decode_example(image)
        return opened
    if isinstance(image, list):
        return PILImage.fromarray(_array(image))
    if hasattr(image, "__array_interface__"):
        return PILImage.fromarray(image)
    raise TypeError("there is no image" if image is None else f"a {type(image).__name__} is not an image")


def _check_regular(path: str | Path) -> None:
    """Refuse pipes and devices, which may block for ever or have no end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("not a regular file")


def _array(rows: list[Any]) -> Any:
    """Return nested lists, as ``datasets`` gives array columns, as an image of uint8."""
    import numpy as np

    values = np.asarray(rows)
    whole = np.issubdtype(values.dtype, np.integer) and values.size and values.min() >= 0 and values.max() <= 255
    if not whole or values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in (3, 4)):
        raise TypeError(
            f"an array of {values.dtype} with the shape {values.shape} is not an image; expected (height, width) or "
            f"(height, width, 3) of whole numbers from 0 to 255, or a column pixel_values of prepared images"
        )
    return values.astype(np.uint8)


def _open_bytes(data: bytes) -> "Image":
    from PIL import Image as PILImage

    try:
        image = PILImage.open(io.BytesIO(data))
        image.load()
    except ValueError:
        shorter = without_text(data)
        if shorter is None:
            raise
        image = PILImage.open(io.BytesIO(shorter))
    return image


def without_text(data: bytes) -> bytes | None:
    """Return the bytes of a PNG file without its texts and color profile; None where there is nothing to remove.

    Pillow refuses valid images with much text or a large profile, such as image generators write. Neither is used
    here; the EXIF data, which may turn the image, is kept.
    """
    if not data.startswith(_PNG):
        return None
    kept, position = [_PNG], len(_PNG)
    while position + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        end = position + 12 + length
        if kind not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP") or data[position + 8 : end].startswith(
            b"Raw profile type"
        ):
            kept.append(data[position:end])
        position = end
    shorter = b"".join(kept)
    return shorter if len(shorter) < len(data) else None


def _upright_rgb(image: "Image") -> "Image":
    """Rotate the image by its EXIF data, as the pipelines of transformers do, and convert it to RGB."""
    from PIL import Image as PILImage
    from PIL import ImageOps

    image.load()
    wide = image.format in ("PNG", "PPM")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and wide):
        # Pillow clips 16 bits to 8 where it should scale them.
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    elif image.mode in ("I", "F"):
        image = _from_32_bits(image)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == "RGB" and type(image) is PILImage.Image else image.convert("RGB")


def _from_32_bits(image: "Image") -> "Image":
    """Return a picture of 32-bit values in 8 bits, or refuse values whose range is not known.

    Floats are from 0 to 1 or from 0 to 255, integers of 8 or 16 bits. A picture without a pixel of an eighth of the
    full brightness rather has another range, such as 12 bits or overexposed floats, and would be nearly black.
    """
    import numpy as np
    from PIL import Image as PILImage

    values, is_float = np.asarray(image), image.mode == "F"
    highest = float(values.max()) if values.size and values.min() >= 0 else math.nan
    if is_float and highest <= 1:
        return PILImage.fromarray((values * 255).round().astype(np.uint8))
    if highest == 0 or _BYTE / _DARKEST <= highest <= _BYTE:
        return PILImage.fromarray(values.round().astype(np.uint8))
    if not is_float and _WORD / _DARKEST <= highest <= _WORD:
        return PILImage.fromarray((values // 256).astype(np.uint8))
    kind = "floats" if is_float else "integers"
    span = f"from {values.min():g} to {values.max():g}" if values.size else "none"
    raise ValueError(
        f"its pixels are 32-bit {kind} ({span}), whose range is not known; convert it to 8 or 16 bits, or "
        f"to floats from 0 to 1"
    )

"""Read a text file that may be of anything: a pipe, a device, a file of any size."""

import stat
from pathlib import Path

LARGEST_TEXT = 64 << 20


def read_small_text(path: Path, most: int = LARGEST_TEXT) -> str:
    """Return the text of a regular file. A pipe is never opened, because reading it would wait for a writer.

    Args:
        path: The file. A link is followed.
        most: The most bytes that it may have.

    Raises:
        OSError: There is no such file, it is not a regular file, or it is too large.
        UnicodeDecodeError: It is not UTF-8.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is not a regular file")
    if status.st_size > most:
        raise OSError(f"it has {status.st_size:,d} bytes, expected at most {most:,d}")
    return path.read_text(encoding="utf-8")

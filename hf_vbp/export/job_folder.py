"""A temporary folder, whose failures name it and not the output."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hf_vbp._progress import one_line
from hf_vbp.errors import CheckpointError, HfVbpError


@contextmanager
def job_folder() -> Iterator[Path]:
    """Yield a temporary folder, which is removed at the end.

    Raises:
        CheckpointError: It cannot be made or written to; the message names it and ``TMPDIR``.
    """
    place = ""
    try:
        place = tempfile.gettempdir()
        with tempfile.TemporaryDirectory(prefix="hf-vbp-export-") as folder:
            yield Path(folder)
    except HfVbpError:
        raise
    except OSError as error:
        raise full(place, one_line(error)) from error


def full(place: str, reason: str) -> CheckpointError:
    """Return the error of a temporary folder that cannot be written to.

    Args:
        place: The temporary folder of the system.
        reason: What the system reports.
    """
    return CheckpointError(
        f"{f'The temporary folder {place}'.rstrip()} is full or cannot be written to ({reason}), so nothing was "
        "exported. Free space in it, or set TMPDIR to a folder with more."
    )

"""Advisory locks on files: one process at a time writes to an output."""

import errno
import importlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hf_vbp.errors import HfVbpError, OutputError

_UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
# The locks of each thread of this process, so that a command and the saving within it do not exclude each other.
_HELD: dict[Path, tuple[int, int]] = {}


def is_windows() -> bool:
    """Return whether open files can be neither renamed nor removed, and folders cannot be opened."""
    return os.name == "nt"


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file without waiting; the system releases the lock when the process ends in any way.

    Returns:
        Whether the lock was obtained; None where the system or the file system has no locks.
    """
    try:
        # By name, because each module exists on one kind of system only.
        module: Any = importlib.import_module("msvcrt" if is_windows() else "fcntl")
    except ImportError:
        return None
    try:
        if is_windows():
            # A byte far after the end, so that other processes can still read the content.
            os.lseek(descriptor, 1 << 20, os.SEEK_SET)
            module.locking(descriptor, module.LK_NBLCK, 1)
        else:
            module.flock(descriptor, module.LOCK_EX | module.LOCK_NB)
    except OSError as error:
        return None if error.errno in _UNSUPPORTED else False
    return True


@contextmanager
def output_lock(path: Path, output: Path, error: type[HfVbpError] = OutputError) -> Iterator[None]:
    """Hold the lock of an output; the same thread may hold it more than once.

    Args:
        path: The lock file. It is removed at the end.
        output: The output, for the message.
        error: The class of the error.

    Raises:
        HfVbpError: Another process or thread writes to the output, or the lock file cannot be made, which means
            that nothing can be written there.
    """
    owner = (os.getpid(), threading.get_ident())
    if _HELD.get(path) == owner:
        yield
        return
    descriptor = _acquire(path, output, error)
    _HELD[path] = owner
    try:
        yield
    finally:
        _HELD.pop(path, None)
        # Removed while the lock is held: a process that opened the old file notices in _acquire that it was removed.
        if not is_windows():
            clean_up(lambda: path.unlink(missing_ok=True))
        os.close(descriptor)
        if is_windows():
            with suppress(OSError):
                path.unlink(missing_ok=True)


def clean_up(work: Callable[[], object]) -> None:
    """Do work that may be repeated, once more if a signal (Ctrl-C, SIGTERM) interrupts it, which is then raised again.

    Args:
        work: Removes or restores files.
    """
    try:
        work()
    except (KeyboardInterrupt, SystemExit):
        work()
        raise


def _acquire(path: Path, output: Path, error: type[HfVbpError]) -> int:
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError as cause:
            raise error(
                f"{output} cannot be written: {path.parent} does not take new files ({cause.strerror}). "
                "Choose another output."
            ) from cause
        if try_lock(descriptor) is False:
            os.lseek(descriptor, 0, os.SEEK_SET)
            holder = os.read(descriptor, 20).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise error(
                f"{output} is being written by another process{f' (pid {holder})' if holder.isdigit() else ''}. "
                "Wait until it ends, or choose another output."
            )
        if _is_still_there(path, descriptor):
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            with suppress(OSError):  # The number is only for the message, and a full disk does not take it.
                os.write(descriptor, f"{os.getpid()}\n".encode())
            return descriptor
        os.close(descriptor)


def _is_still_there(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False

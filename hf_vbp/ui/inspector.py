"""Inspect models in a process of its own, so that neither a queue nor a running job delays it."""

import multiprocessing
import signal
import threading
from pathlib import Path
from typing import Any

from hf_vbp.errors import CheckpointError

SECONDS = 90


def inspect_by_name(source: str, token: str | bool | None, cache_dir: Path | None) -> dict[str, Any]:
    """Return what the config of a model tells about pruning it; no weights are downloaded.

    Args:
        source: A Hub id, a folder or ``sample``.
        token: Token for the Hub.
        cache_dir: Cache of the files from the Hub.

    Returns:
        The result of :func:`hf_vbp.workflow.inspect.inspect_model` with ``model``, ``merging`` (why tokens cannot be
        merged, or None), ``memory`` (bytes that pruning takes), ``download`` (bytes of the weights on the Hub, 0 for
        a local model) and ``processor`` (whether images can be prepared for it).

    Raises:
        HfVbpError: There is no such model, or it cannot be pruned.
    """
    from hf_vbp.adapters.prepared import prepare_structure
    from hf_vbp.data.processing import load_processor
    from hf_vbp.errors import DataError
    from hf_vbp.token_merging.support import why_not_mergeable
    from hf_vbp.ui.memory import memory_needed, weight_files
    from hf_vbp.workflow.inspect import inspect_model
    from hf_vbp.workflow.loading import LoadedModel, Loading, path_of
    from hf_vbp.workflow.requests import check_images_alone

    model = Loading(token=token, cache_dir=cache_dir).structure(source)
    prepared = prepare_structure(model)
    found = inspect_model(prepared)
    path = path_of(source)
    try:
        processor = load_processor(path, token=token, cache_dir=cache_dir)
    except DataError:
        processor = None
    check_images_alone(LoadedModel(source, model, processor))
    return {
        **found,
        "model": source,
        "merging": why_not_mergeable(model),
        "memory": memory_needed(prepared),
        "download": 0 if Path(path).is_dir() else weight_files(source, token),
        "processor": processor is not None,
    }


class Inspector:
    """A process that inspects models; one that hangs is replaced.

    Args:
        seconds: Longest time of one inspection.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._pool: Any = None

    def start(self) -> None:
        """Start the process, which imports everything it needs."""
        with self._lock:
            if self._pool is None:
                self._pool = multiprocessing.get_context("spawn").Pool(1, initializer=_begin)

    def inspect(self, source: str, token: str | bool | None, cache_dir: Path | None) -> dict[str, Any]:
        """Inspect a model; see :func:`inspect_by_name`.

        Raises:
            HfVbpError: There is no such model, it cannot be pruned, or it took too long.
        """
        self.start()
        pool = self._pool
        try:
            found: dict[str, Any] = pool.apply_async(inspect_by_name, (source, token, cache_dir)).get(self._seconds)
        except multiprocessing.TimeoutError:
            with self._lock:
                if self._pool is pool:
                    pool.terminate()
                    self._pool = None
            raise CheckpointError(
                f"The config of {source} was not read within {self._seconds:g} s. Check the connection and try again."
            ) from None
        return found

    def close(self) -> None:
        """End the process."""
        with self._lock:
            if self._pool is not None:
                self._pool.terminate()
                self._pool = None


def _begin() -> None:
    # Ctrl-C is handled by the parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    inspect_by_name("sample", False, None)

"""Faults, and the requests at which they happen."""

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

KINDS = ("status", "drop", "lose_answer", "cut_body", "meanwhile")


@dataclass
class Fault:
    """A fault at one request, or at several.

    Attributes:
        kind: ``status`` answers with an error and does nothing; ``drop`` closes the connection before the
            work is done; ``lose_answer`` does the work and closes the connection instead of answering;
            ``cut_body`` sends only the first ``keep_bytes`` of the answer's body; ``meanwhile`` is no fault,
            but a moment for ``then`` to do something before the work is done.
        at: The request at which it happens, counted from 1 since the fault was set; None: at every one that
            ``method`` and ``path`` match.
        times: How often it happens in all; from ``at`` on, consecutive matching requests.
        then: Called when it happens, before the connection is closed: the place to kill a client.
    """

    kind: str
    at: int | None = None
    method: str | None = None
    path: str | None = None
    origin: str | None = None
    times: int = 1
    status: int = 503
    message: str = "Service temporarily unavailable"
    headers: dict[str, str] = field(default_factory=dict)
    keep_bytes: int = 0
    reset: bool = False
    then: Callable[[], None] | None = None
    seen: int = 0
    happened: int = 0

    def strikes(self, origin: str, method: str, path: str) -> bool:
        """Count one request and return whether the fault happens at it."""
        if (self.origin and origin != self.origin) or (self.method and method != self.method):
            return False
        if self.path and not re.search(self.path, path):
            return False
        self.seen += 1
        if self.happened >= self.times or (self.at is not None and self.seen < self.at):
            return False
        self.happened += 1
        return True


class FaultBook:
    """The faults that are set at the moment."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> Fault:
        """Set ``fault``."""
        if fault.kind not in KINDS:
            raise ValueError(f"unknown kind of fault {fault.kind!r}; there are {', '.join(KINDS)}")
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Remove all faults."""
        with self._lock:
            self._faults.clear()

    def at(self, origin: str, method: str, path: str) -> Fault | None:
        """Return the fault that happens at this request, if one does."""
        with self._lock:
            struck = [fault for fault in self._faults if fault.strikes(origin, method, path)]
        return struck[0] if struck else None

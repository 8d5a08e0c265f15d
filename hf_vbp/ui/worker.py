"""Long work of the page: one job at a time in this process, in the order of submission, with progress and cancel."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from hf_vbp._progress import Progress, one_line
from hf_vbp.errors import ConfigurationError, HfVbpError

MOST_WAITING = 20
_LONGEST_MESSAGE = 2000
_log = logging.getLogger(__name__)


class JobCancelled(HfVbpError, RuntimeError):
    """The user cancelled the job."""


@dataclass(eq=False)
class Job:
    """One piece of long work.

    Attributes:
        title: What it does.
        work: Called with the job, which is also the receiver of its progress.
        state: ``"waiting"``, ``"running"``, ``"done"``, ``"failed"`` or ``"cancelled"``.
        stage: The present stage.
        finished: Number of finished items of the stage.
        total: Number of all; None where it is not known.
        remarks: Warnings, each once.
        error: The sentence of a failure.
        result: What the work returned.
    """

    title: str
    work: Callable[["Job"], Any] | None
    state: str = "waiting"
    stage: str = ""
    finished: int = 0
    total: int | None = None
    remarks: list[str] = field(default_factory=list)
    error: str = ""
    result: Any = None
    began: float = field(default_factory=time.monotonic)
    _cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def ended(self) -> bool:
        """Whether it has ended in any way."""
        return self.state in ("done", "failed", "cancelled")

    def cancel(self) -> None:
        """Ask it to end; running work ends at its next report of progress."""
        self._cancelled.set()

    def check(self) -> None:
        """End the work here if it was cancelled.

        Raises:
            JobCancelled: It was.
        """
        if self._cancelled.is_set():
            raise JobCancelled("Cancelled; nothing was changed.")

    def say(self, text: str) -> None:
        """Show the present stage."""
        self.check()
        self.stage, self.finished, self.total, self.began = text, 0, None, time.monotonic()

    def warn(self, text: str) -> None:
        """Keep a warning for the end."""
        if text not in self.remarks:
            self.remarks.append(text)

    @contextmanager
    def stage_of(self, title: str, total: int | None) -> Iterator[Progress]:
        """Open a stage; its value receives the number of finished items and of all."""
        self.say(title)
        self.total = total

        def update(finished: int, known: int | None = None) -> None:
            self.check()
            self.finished, self.total = finished, known if known is not None else total

        yield update

    def run(self) -> None:
        """Do the work; any error becomes a sentence."""
        work, self.work = self.work, None
        try:
            self.check()
            self.state = "running"
            self.result = work(self) if work is not None else None
            self.state = "done"
        except JobCancelled as error:
            self.error, self.state = str(error), "cancelled"
        except HfVbpError as error:
            self.error, self.state = one_line(error, _LONGEST_MESSAGE), "failed"
        except MemoryError:
            self.error, self.state = out_of_memory(), "failed"
        except Exception as error:  # The last resort: the other jobs of the process go on.
            _log.exception("%s failed", self.title)
            self.error = out_of_memory() if is_out_of_memory(error) else unexpected(error)
            self.state = "failed"


class Reporter:
    """The progress of a job in the form that the workflow reports to."""

    def __init__(self, job: Job) -> None:
        self.say, self.warn, self._job = job.say, job.warn, job

    def stage(self, title: str, total: int | None = None) -> Any:
        """Open a stage; see :meth:`Job.stage_of`."""
        return self._job.stage_of(title, total)


class Worker:
    """Runs jobs one after the other in a thread of its own."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()
        self._running: Job | None = None
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def submit(self, title: str, work: Callable[[Job], Any]) -> Job:
        """Queue work and return its job.

        Raises:
            ConfigurationError: Too many jobs are waiting.
        """
        job = Job(title, work)
        with self._changed:
            if len(self._jobs) >= MOST_WAITING:
                raise ConfigurationError(
                    f"{len(self._jobs)} jobs are waiting, and no more are accepted. Try again later, or run it as a "
                    "Job of your own account."
                )
            self._jobs.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="hf-vbp-ui", daemon=True)
                self._thread.start()
            self._changed.notify()
        return job

    def ahead_of(self, job: Job) -> int:
        """Return the number of jobs that run or wait before a waiting one."""
        with self._changed:
            if job not in self._jobs:
                return 0
            return self._jobs.index(job) + (self._running is not None)

    def cancel(self, job: Job) -> None:
        """Cancel a job; a waiting one leaves the queue at once."""
        job.cancel()
        with self._changed:
            if job in self._jobs:
                self._jobs.remove(job)
                job.work, job.error, job.state = None, "Cancelled before it began.", "cancelled"

    def _work(self) -> None:
        while True:
            with self._changed:
                self._running = None
                while not self._jobs:
                    self._changed.wait()
                self._running = self._jobs.popleft()
            self._running.run()


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of torch is about memory."""
    return isinstance(error, RuntimeError) and any(
        sign in str(error).lower() for sign in ("out of memory", "can't allocate", "not enough memory")
    )


def out_of_memory() -> str:
    """Return the sentence for a job that ran out of memory, with advice."""
    return (
        "There is not enough memory for this model and its statistics. Choose a smaller model, or run it as a Job of "
        "your own account on a machine with more memory."
    )


def unexpected(error: BaseException) -> str:
    """Return the sentence for an error that hf_vbp does not know."""
    return (
        f"Unexpected {type(error).__name__}: {one_line(error)}. The log of the server has the traceback; please "
        "report it with the name of the model."
    )

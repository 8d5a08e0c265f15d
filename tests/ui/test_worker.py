"""The queue of long work: real threads, synchronized by events."""

import threading
from typing import Any

import pytest

from hf_vbp.errors import ConfigurationError, DataError
from hf_vbp.ui import worker as module
from hf_vbp.ui.worker import Job, Reporter, Worker


class Gate:
    """Work that waits until it is let through."""

    def __init__(self) -> None:
        self.began, self.open = threading.Event(), threading.Event()

    def __call__(self, job: Job) -> str:
        with Reporter(job).stage("Waiting", 10) as progress:
            progress(3, None)
            self.began.set()
            while not self.open.wait(0.01):
                progress(4, None)
        return "through"


def ended(job: Job) -> Job:
    while not job.ended:
        threading.Event().wait(0.005)
    return job


def test_one_job_runs_at_a_time_and_the_others_know_their_place() -> None:
    worker, first, second = Worker(), Gate(), Gate()
    jobs = [worker.submit(name, work) for name, work in (("a", first), ("b", second), ("c", Gate()))]
    assert first.began.wait(10)
    assert [worker.ahead_of(job) for job in jobs] == [0, 1, 2]
    assert (jobs[0].state, jobs[0].stage, jobs[0].total) == ("running", "Waiting", 10)
    assert not second.began.is_set()
    first.open.set()
    assert ended(jobs[0]).result == "through"
    assert second.began.wait(10)
    for job in jobs[1:]:
        worker.cancel(job)
    assert [ended(job).state for job in jobs] == ["done", "cancelled", "cancelled"]


def test_a_cancelled_job_ends_and_the_next_one_runs() -> None:
    worker, first = Worker(), Gate()
    running, waiting, last = (worker.submit(name, work) for name, work in (("a", first), ("b", Gate()), ("c", len_)))
    assert first.began.wait(10)
    worker.cancel(waiting)
    assert (waiting.state, waiting.error) == ("cancelled", "Cancelled before it began.")
    worker.cancel(running)
    assert ended(running).state == "cancelled"
    assert ended(last).result == 0
    # What was closed over, such as a token, is not kept.
    assert [job.work for job in (running, waiting, last)] == [None, None, None]


def len_(job: Job) -> int:
    return len(job.remarks)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (DataError("There are no images."), "There are no images."),
        (MemoryError(), "not enough memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"),
            "not enough memory",
        ),
        (KeyError("x"), "Unexpected KeyError: 'x'. The log of the server has the traceback"),
    ],
)
def test_errors_become_sentences(error: BaseException, sentence: str) -> None:
    def fail(job: Job) -> None:
        raise error

    worker = Worker()
    job = ended(worker.submit("a", fail))
    assert job.state == "failed"
    assert sentence in job.error
    assert ended(worker.submit("b", len_)).state == "done"


def test_the_queue_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 2)
    worker, gate = Worker(), Gate()
    jobs = [worker.submit("a", gate)]
    assert gate.began.wait(10)
    jobs += [worker.submit("b", len_), worker.submit("c", len_)]
    with pytest.raises(ConfigurationError, match="2 jobs are waiting"):
        worker.submit("d", len_)
    gate.open.set()
    assert [ended(job).state for job in jobs] == ["done"] * 3


def test_warnings_are_kept_once() -> None:
    def warn(job: Job) -> Any:
        for _ in range(2):
            Reporter(job).warn("Something is missing.")

    assert ended(Worker().submit("a", warn)).remarks == ["Something is missing."]

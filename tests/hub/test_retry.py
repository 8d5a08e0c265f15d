"""The waits before a commit is retried."""

from types import SimpleNamespace

import pytest

from hf_vbp.hub.failures import cause_of, is_transient
from hf_vbp.hub.retries import Retries


class Answered(Exception):
    """An error with an answer, as the client raises it."""

    def __init__(self, status: int, **headers: str) -> None:
        super().__init__(status)
        self.response = SimpleNamespace(
            status_code=status, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )


@pytest.mark.parametrize(
    ("error", "attempt", "seconds"),
    [
        (ConnectionError(), 0, 2.0),
        (ConnectionError(), 2, 8.0),
        (Answered(429, Retry_After="5"), 0, 6.0),
        (Answered(429, Retry_After="9000"), 0, 60.0),
        (Answered(503, Retry_After="soon"), 1, 4.0),
        (Answered(429, RateLimit='"api";r=0;t=11'), 0, 12.0),
        (Answered(429, RateLimit='"api";r=7;t=11'), 0, 2.0),
    ],
)
def test_waits(error: Exception, attempt: int, seconds: float) -> None:
    waited: list[float] = []
    Retries(sleep=waited.append).wait(error, attempt)
    assert waited == [seconds]


def test_transient_and_permanent_failures() -> None:
    wrapped = RuntimeError("Error while uploading")
    wrapped.__cause__ = Answered(500)
    assert isinstance(cause_of(wrapped), Answered)
    assert is_transient(wrapped)
    assert is_transient(ConnectionError())
    assert is_transient(Answered(408))
    assert not is_transient(Answered(403))
    assert not is_transient(ValueError("a bad card"))

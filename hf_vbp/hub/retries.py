"""Repeat requests after transient failures."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from hf_vbp.hub.failures import FAILURES, cause_of, hub_error, is_transient

Value = TypeVar("Value")
# The allowance is used up and is renewed in t seconds: ``"api";r=0;t=12``.
_RATE_LIMIT = re.compile(r"\br=0;.*?\bt=(\d+)")


@dataclass(frozen=True)
class Retries:
    """Number of tries of a commit or a repeatable request, and the waits between them.

    Attributes:
        attempts: Number of tries.
        wait_seconds: Wait before the second try; it doubles with every try. A wait that the Hub asks for
            (``Retry-After``, ``RateLimit``) replaces it, up to ``longest_wait``.
        longest_wait: Longest wait in seconds.
        sleep: Function that waits.
    """

    attempts: int = 3
    wait_seconds: float = 2.0
    longest_wait: float = 60.0
    sleep: Callable[[float], None] = time.sleep

    def wait(self, error: BaseException, attempt: int) -> None:
        """Wait before the next try."""
        response = getattr(cause_of(error), "response", None)
        headers = response.headers if response is not None else {}
        limit = _RATE_LIMIT.search(headers.get("RateLimit", ""))
        asked = headers.get("Retry-After", "") or (limit[1] if limit else "")
        seconds = float(asked) + 1 if asked.isdigit() else self.wait_seconds * 2**attempt
        self.sleep(min(seconds, self.longest_wait))


DEFAULT = Retries()


def patiently(call: Callable[[], Value], retries: Retries) -> Value:
    """Make a repeatable call, again after transient failures, and raise its last error."""
    for attempt in range(retries.attempts - 1):
        try:
            return call()
        except FAILURES as error:
            if not is_transient(error):
                raise
            retries.wait(error, attempt)
    return call()


def repeat(call: Callable[[], Value], doing: str, repo_id: str, retries: Retries) -> Value:
    """Make a call :func:`patiently`, and raise its error as one of this package.

    Raises:
        HubError: The last try failed; the message begins with ``doing``.
    """
    try:
        return patiently(call, retries)
    except FAILURES as error:
        raise hub_error(error, doing, repo_id) from error

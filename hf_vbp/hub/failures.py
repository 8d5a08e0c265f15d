"""Errors of the Hub, its client and the network, each turned into one sentence with the next step."""

import json
from importlib import import_module

from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hf_vbp.errors import HubError
from hf_vbp.results.redaction import without_home


def _transport_errors() -> tuple[type[BaseException], ...]:
    """Return the base classes of the HTTP clients that versions of huggingface_hub are built on."""
    found: list[type[BaseException]] = []
    for name, attribute in (("httpx2", "HTTPError"), ("httpx", "HTTPError")):
        try:
            found.append(getattr(import_module(name), attribute))
        except ImportError:
            continue
    return tuple(found)


TRANSPORT = (*_transport_errors(), ConnectionError, TimeoutError)
# OSError: Xet and HfHubHTTPError; RuntimeError: LFS uploads; ValueError: cards and answers that are not JSON.
FAILURES: tuple[type[BaseException], ...] = (*TRANSPORT, OSError, RuntimeError, ValueError)

_ADVICE = {
    400: "The Hub refuses the content",
    401: "the Hub does not accept the token: run `hf auth login` or set HF_TOKEN to a valid one",
    402: "the plan of this account does not allow it: see its billing settings on the Hub",
    403: "the token must not write there: use one with write permission for this namespace",
    404: "the repository does not exist, or the token cannot read it: check the name and run `hf auth whoami`",
    409: "it exists already, or another operation is in progress: check it and try again",
    412: "another commit was made since this push began: nothing was changed; check it and push again",
    413: "it is too large for one request: save the model in smaller shards (max_shard_size) and push again",
    429: "too many requests: wait and push again",
}
_QUOTA = ("storage limit", "quota", "storage full", "storage exceeded")


def cause_of(error: BaseException) -> BaseException:
    """Return the cause of an error: the client wraps failed LFS uploads in a ``RuntimeError``."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status of an error, if an answer was received."""
    response = getattr(cause_of(error), "response", None)
    status = getattr(response, "status_code", None)
    return int(status) if status is not None else None


def is_transient(error: BaseException) -> bool:
    """Return whether the same request may succeed later: no answer, too many requests, a fault of the server."""
    error = cause_of(error)
    if isinstance(error, OfflineModeIsEnabled):
        return False
    status = status_of(error)
    if status is not None:
        return status in (408, 429) or status >= 500
    return isinstance(error, (*TRANSPORT, json.JSONDecodeError))


def is_unreachable(error: BaseException | None) -> bool:
    """Return whether the Hub was not asked at all: offline mode, no connection, or no token for the request."""
    if error is None or status_of(error) is not None:
        return False
    return isinstance(cause_of(error), (OfflineModeIsEnabled, LocalTokenNotFoundError, *TRANSPORT))


def server_reason(error: BaseException) -> str:
    """Return the reason that the server gave, in one line; empty where there is none."""
    message = getattr(cause_of(error), "server_message", None)
    return without_home(" ".join(str(message).split())) if message else ""


def explain(error: BaseException, doing: str, repo_id: str) -> str:
    """Return one sentence with the failed action, the reason, and the next step.

    Args:
        error: The error of the client.
        doing: The action, as a gerund: ``"creating the repository"``.
        repo_id: The repository of the action.
    """
    return f"{doing} ({repo_id}) failed: {_reason(cause_of(error))}."


def _reason(error: BaseException) -> str:
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so nothing can be sent or read: unset it"
    if isinstance(error, LocalTokenNotFoundError):
        return "there is no token: run `hf auth login` or set HF_TOKEN"
    if isinstance(error, GatedRepoError):
        return "access to it must be requested on its page and granted first"
    if isinstance(error, RevisionNotFoundError):
        return "there is no such revision: check the name of the branch, tag or commit"
    if isinstance(error, RepositoryNotFoundError):
        return _ADVICE[404]
    if isinstance(error, HfHubHTTPError):
        return _reason_of_status(error)
    if isinstance(error, json.JSONDecodeError):
        return "the answer is not JSON, perhaps from a proxy: check HF_ENDPOINT and the network, and try again"
    if isinstance(error, HFValidationError):
        return f"the repository id is not valid: {without_home(str(error)).rstrip('.')}"
    if isinstance(error, TRANSPORT):
        note = without_home(" ".join(str(error).split()))[:160] or type(error).__name__
        return (
            f"no connection, or an interrupted one ({note}): check the network and try again; behind some proxies "
            "HF_HUB_DISABLE_XET=1 helps"
        )
    return without_home(" ".join(str(error).split()))[:300] or type(error).__name__


def _reason_of_status(error: HfHubHTTPError) -> str:
    status, reason = status_of(error), server_reason(error)
    note = f" (answer of the Hub: {reason[:300].rstrip('.')})" if reason else ""
    if status in (402, 403) and any(word in reason.lower() for word in _QUOTA):
        return f"the storage of this account is full{note}: delete something or enlarge the plan"
    if status is not None and status >= 500:
        return f"the Hub failed (status {status}){note}: try again later"
    if status == 429:
        return f"{_ADVICE[429]}{note}"
    return f"{_ADVICE.get(status or 0, f'the Hub answered with status {status}')}{note}"


def hub_error(error: BaseException, doing: str, repo_id: str) -> HubError:
    """Return the error of this package for an error of the client."""
    return HubError(explain(error, doing, repo_id))

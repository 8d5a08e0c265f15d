"""Jobs of the Hub: send a script with its arguments to the account of a user, and read its state by id."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hf_vbp.errors import ConfigurationError, HubError
from hf_vbp.hub.client import make_api
from hf_vbp.hub.failures import FAILURES, hub_error, server_reason, status_of

LABELS = {"app": "hf-vbp"}
_ADVICE = {
    402: "Jobs are billed, and this account has no credit or payment method: see its billing settings on the Hub",
    403: "the token must not start or read Jobs: use one that has this permission, or log in again and allow it",
    404: "there is no such Job in this account",
}
ENDED = ("COMPLETED", "CANCELED", "ERROR", "DELETED")


@dataclass(frozen=True)
class HubJob:
    """The state of a Job.

    Attributes:
        id: Its id, by which it is found again.
        url: Its page.
        stage: ``SCHEDULING``, ``RUNNING``, ``COMPLETED``, ``CANCELED``, ``ERROR`` or ``DELETED``.
        message: The reason, where there is one.
    """

    id: str
    url: str
    stage: str
    message: str = ""

    @property
    def ended(self) -> bool:
        """Whether it does not run any more."""
        return self.stage in ENDED


def start_job(
    script: str,
    arguments: Sequence[str],
    *,
    flavor: str,
    token: str | bool | None,
    environment: Mapping[str, str] | None = None,
    timeout: str = "4h",
) -> HubJob:
    """Send a uv script to the account of the user. It runs there with the token as the secret ``HF_TOKEN``.

    Args:
        script: Address of the script.
        arguments: Its arguments.
        flavor: Name of the hardware.
        token: Token of the user, or None for the stored one.
        environment: Environment variables of the Job.
        timeout: Its longest time.

    Raises:
        ConfigurationError: There is no token.
        HubError: The Hub refused or did not answer.
    """
    from huggingface_hub import get_token

    secret = get_token() if token is None else token
    if not isinstance(secret, str):
        raise ConfigurationError("A Job runs on the account of a user: log in first.")
    api = make_api(token)
    try:
        started = api.run_uv_job(
            script,
            script_args=list(arguments),
            flavor=flavor,
            timeout=timeout,
            env=dict(environment or {}),
            secrets={"HF_TOKEN": secret},
            labels=LABELS,
            namespace=str(api.whoami()["name"]),
        )
    except FAILURES as error:
        raise _failure(error, "Starting the Job") from error
    return _state(started)


def read_job(job_id: str, token: str | bool | None) -> HubJob:
    """Return the state of a Job of the user.

    Raises:
        HubError: There is no such Job, or the Hub did not answer.
    """
    _check(job_id)
    try:
        return _state(make_api(token).inspect_job(job_id=job_id))
    except FAILURES as error:
        raise _failure(error, f"Reading the Job {job_id}") from error


def cancel_job(job_id: str, token: str | bool | None) -> HubJob:
    """Cancel a Job of the user, and return its state.

    Raises:
        HubError: There is no such Job, or the Hub did not answer.
    """
    _check(job_id)
    try:
        make_api(token).cancel_job(job_id=job_id)
    except FAILURES as error:
        raise _failure(error, f"Cancelling the Job {job_id}") from error
    return read_job(job_id, token)


def _check(job_id: str) -> None:
    # The id becomes a part of an address.
    if not (job_id.isalnum() and job_id.isascii()):
        raise ConfigurationError("The id of a Job consists of letters and digits.")


def _failure(error: BaseException, action: str) -> HubError:
    advice = _ADVICE.get(status_of(error) or 0)
    if advice is None:
        return hub_error(error, action, "Jobs")
    reason = server_reason(error)
    return HubError(f"{action} failed: {advice}" + (f" (answer of the Hub: {reason.rstrip('.')})." if reason else "."))


def _state(job: Any) -> HubJob:
    stage = job.status.stage
    return HubJob(job.id, job.url, str(getattr(stage, "value", stage)), job.status.message or "")

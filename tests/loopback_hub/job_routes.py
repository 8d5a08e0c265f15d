"""Jobs: started, read and cancelled; nothing runs."""

import secrets
from typing import Any

from .access import caller
from .repository import now
from .serving import Refusal, Request, Response, Routes, json_response

routes = Routes()
FLAVORS = ("cpu-basic", "cpu-upgrade", "t4-small")


def _own(request: Request, namespace: str) -> Any:
    user = caller(request, needed=True)
    assert user is not None
    if user.role != "write" or not user.owns(namespace):
        raise Refusal(403, "Your token has no permission for Jobs in this namespace")
    return user


def _job(request: Request, namespace: str, job_id: str) -> dict[str, Any]:
    _own(request, namespace)
    job = request.hub.jobs.get(job_id)
    if job is None or job["owner"]["name"] != namespace:
        raise Refusal(404, "Job not found")
    return job


def _public(job: dict[str, Any]) -> dict[str, Any]:
    """Return a job as the Hub shows it: names of secrets, never their values."""
    return {**job, "secrets": dict.fromkeys(job["secrets"], "")}


@routes.add("POST", r"/api/jobs/(?P<namespace>[^/]+)")
def start(request: Request, namespace: str) -> Response:
    """Start a job."""
    user = _own(request, namespace)
    asked = request.json()
    if asked["flavor"] not in FLAVORS:
        raise Refusal(402, "Payment required for this hardware")
    job_id = secrets.token_hex(12)
    request.hub.jobs[job_id] = {
        "id": job_id,
        "createdAt": now(),
        "dockerImage": asked.get("dockerImage"),
        "command": asked["command"],
        "arguments": asked.get("arguments", []),
        "environment": asked.get("environment", {}),
        "secrets": asked.get("secrets", {}),
        "flavor": asked["flavor"],
        "labels": asked.get("labels", {}),
        "timeoutSeconds": asked.get("timeoutSeconds"),
        "status": {"stage": "RUNNING", "message": None},
        "owner": {"id": "0", "name": user.name, "type": "user"},
    }
    return json_response(_public(request.hub.jobs[job_id]))


@routes.add("GET", r"/api/jobs/(?P<namespace>[^/]+)/(?P<job_id>[^/]+)")
def read(request: Request, namespace: str, job_id: str) -> Response:
    """Describe a job."""
    return json_response(_public(_job(request, namespace, job_id)))


@routes.add("POST", r"/api/jobs/(?P<namespace>[^/]+)/(?P<job_id>[^/]+)/cancel")
def cancel(request: Request, namespace: str, job_id: str) -> Response:
    """Cancel a job."""
    job = _job(request, namespace, job_id)
    job["status"] = {"stage": "CANCELED", "message": None}
    return json_response({})

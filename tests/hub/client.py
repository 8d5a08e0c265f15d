"""Runs in a child process: reads one request per line, does it with the real client, answers with JSON.

With ``--fork`` every request is done in a separate process, forked from this one, which has imported the client
but never used it. Its process id is sent first; it begins when it is sent an empty line.
"""

import json
import os
import sys
import traceback
from typing import Any


def push(directory: str, repo_id: str, options: dict[str, Any]) -> dict[str, Any]:
    from hf_vbp.hub.push import push_to_hub
    from hf_vbp.hub.retries import Retries

    attempts = options.pop("attempts", 3)
    retries = Retries(attempts=attempts, sleep=lambda seconds: None)
    shown: list[Any] = []
    result = push_to_hub(directory, repo_id, retries=retries, on_plan=shown.append, **options)
    assert shown == [result.plan]
    return {
        "status": result.status,
        "url": result.url,
        "commit": result.commit,
        "revision": result.revision,
        "changed": result.plan.changed,
        "deleted": result.plan.deleted,
        "remarks": result.plan.remarks,
        "lines": result.plan.lines,
        "sentence": result.sentence,
    }


def push_page(directory: str, repo_id: str, options: dict[str, Any]) -> dict[str, Any]:
    from hf_vbp.hub.push_space import push_space
    from hf_vbp.hub.retries import Retries

    result = push_space(directory, repo_id, retries=Retries(sleep=lambda seconds: None), **options)
    return {
        "status": result.status,
        "url": result.url,
        "commit": result.commit,
        "changed": result.plan.changed,
        "deleted": result.plan.deleted,
        "remarks": result.plan.remarks,
        "lines": result.plan.lines,
        "sentence": result.sentence,
    }


def audit(repo_id: str, options: dict[str, Any]) -> dict[str, Any]:
    from hf_vbp.hub.audit import audit as run

    report = run(repo_id, **options)
    return {"passed": report.passed, "lines": report.lines, "revision": report.revision}


def call(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(code, names)
    return {"value": names.get("value")}


def answer(request: dict[str, Any]) -> None:
    function = {"push": push, "push_page": push_page, "audit": audit, "call": call}[request.pop("do")]
    try:
        result = function(**request)
    except Exception as error:
        traceback.print_exc()
        result = {"error": type(error).__name__, "message": str(error), "trace": traceback.format_exc()}
    print(json.dumps(result), flush=True)


def answer_in_a_fork(request: dict[str, Any]) -> None:
    """Do one request in a process that can be killed, with its own empty cache."""
    home = request.pop("home")
    child = os.fork()
    if child == 0:
        import huggingface_hub.constants as constants

        constants.HF_HUB_CACHE = os.path.join(home, "hub")
        os.environ["HF_XET_CACHE"] = os.path.join(home, "xet")
        print(json.dumps({"pid": os.getpid()}), flush=True)
        sys.stdin.readline()
        answer(request)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        print(json.dumps({"died": -os.WTERMSIG(status)}), flush=True)


def main(fork: bool) -> None:
    import huggingface_hub.utils._http as http
    from huggingface_hub.utils import disable_progress_bars

    import hf_vbp.hub  # noqa: F401 - what every request needs

    disable_progress_bars()
    # The client's own back-off (1, 2, 4, 8, 8 s) passes at once: its waits are not tested.
    http.time.sleep = lambda seconds: None  # type: ignore[assignment]
    while line := sys.stdin.readline():
        (answer_in_a_fork if fork else answer)(json.loads(line))


if __name__ == "__main__":
    main("--fork" in sys.argv)

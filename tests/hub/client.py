"""Runs in a child process: reads one request per line, does it with the real client, answers with JSON."""

import json
import sys
import traceback
from typing import Any


def push(directory: str, repo_id: str, options: dict[str, Any]) -> dict[str, Any]:
    from hf_vbp.hub import Retries, push_to_hub

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


def audit(repo_id: str, options: dict[str, Any]) -> dict[str, Any]:
    from hf_vbp.hub import audit as run

    report = run(repo_id, **options)
    return {"passed": report.passed, "lines": report.lines, "revision": report.revision}


def call(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(code, names)
    return {"value": names.get("value")}


def main() -> None:
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    for name in ("httpx2", "httpx"):
        _no_waiting(name)
    for line in sys.stdin:
        request = json.loads(line)
        function = {"push": push, "audit": audit, "call": call}[request.pop("do")]
        try:
            answer = function(**request)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": type(error).__name__, "message": str(error), "trace": traceback.format_exc()}
        print(json.dumps(answer), flush=True)


def _no_waiting(_: str) -> None:
    """Let the client's own back-off (1, 2, 4, 8, 8 s) pass at once: its waits are not what is tested."""
    import huggingface_hub.utils._http as http

    http.time.sleep = lambda seconds: None


if __name__ == "__main__":
    main()

"""Forks one process for each script that it is asked to run. It never imports hf_vbp, and runs nothing itself.

Run with the folder that stands for the isolated home in this process; the folder of a job takes its place in the fork.
Reads one JSON object per line: ``script``, ``arguments``, ``folder``, ``environment``. Answers with the exit code.
"""

import json
import os
import runpy
import sys
import traceback
from typing import Any

import safetensors.torch  # noqa: F401
import torch  # noqa: F401
import transformers.models.auto  # noqa: F401
from transformers import AutoModelForImageClassification, ViTForImageClassification  # noqa: F401

assert "hf_vbp" not in sys.modules


def move_home(before: str, after: str) -> None:
    """Replace a folder in all constants that were read from the environment at import."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("huggingface_hub", "transformers"):
            for key, value in list(vars(module).items()):
                if isinstance(value, str) and value.startswith(before):
                    setattr(module, key, after + value.removeprefix(before))


def run(job: dict[str, Any], home: str) -> int:
    """Run a script as its own process would, and return the exit code."""
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["folder"])
    move_home(home, job["folder"])
    for stream, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(f"{job['folder']}/{name}", os.O_CREAT | os.O_WRONLY), stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = [job["script"], *job["arguments"]]
    sys.path[0] = os.path.dirname(job["script"])
    try:
        runpy.run_path(job["script"], run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main(home: str) -> None:
    """Answer until the standard input ends."""
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = run(json.loads(line), home)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])

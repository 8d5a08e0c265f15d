"""``recipes/finetune.py`` in one of several processes that may share a model on the CPU."""

import os
import runpy
import sys

from tests.distillation.fsdp_on_cpu import allow_fsdp_on_cpu

if __name__ == "__main__":
    allow_fsdp_on_cpu()
    code = 1
    try:
        runpy.run_path("recipes/finetune.py", run_name="__main__")
    except SystemExit as error:
        code = int(error.code or 0)
    # Everything is written; gloo's threads at times abort an interpreter that is being torn down.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "accelerate==1.15.0",
#     "datasets==5.2.0",
#     "evaluate==0.4.6",
#     "huggingface_hub==2.4.0",
#     "jinja2==3.1.6",
#     "lazy_loader==0.6",
#     "numpy==2.4.6",
#     "pillow==12.3.0",
#     "pyyaml==6.0.4",
#     "rich==15.0.0",
#     "safetensors==0.8.0",
#     "torch==2.13.0",
#     "transformers==5.24.0",
#     "typer==0.29.2",
#     "wrapt==2.5.2",
# ]
#
# # The build of torch without CUDA. On a GPU leave it out: UV_NO_SOURCES=1 uv run ...
# [tool.uv.sources]
# torch = { index = "pytorch-cpu" }
#
# [[tool.uv.index]]
# name = "pytorch-cpu"
# url = "https://download.pytorch.org/whl/cpu"
# explicit = true
#
# [tool.hf-jobs]
# flavor = "cpu-upgrade"
# timeout = "4h"
# name = "hf-vbp-prune"
# secrets = ["HF_TOKEN"]
# ///
"""Prune a vision model, evaluate it and push it, without installing anything.

    hf jobs uv run --env HF_VBP_SOURCE=git+https://github.com/OWNER/hf-vbp URL MODEL --data DATASET --ratio 0.3 \
        --push OWNER/NAME
    uv run scripts/prune.py MODEL --data DATASET --ratio 0.3 --output pruned

Runs the commands of hf-vbp one after the other: ``stats``, then ``prune`` or ``sweep``, ``export`` and
``push``. With ``--work``, a mounted bucket or any folder, a killed run continues where it ended. Options that are not
listed by ``--help`` are passed to ``hf-vbp prune`` (or ``sweep``) as they are.

Uses the checkout of hf_vbp that contains it, or the package of the environment, or installs HF_VBP_SOURCE: a wheel, a
folder, or an address that pip accepts.
"""

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

# Options that decide about the statistics too.
SHARED = ("split", "limit", "seed", "batch-size", "image-column", "revision", "device", "criterion", "compensation")
FINISHED = "vbp_results.json"


def arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Return the options of the script, and those for hf-vbp."""
    parser = argparse.ArgumentParser(
        "prune.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("model", help="a Hub id, a folder, or sample")
    parser.add_argument("--data", required=True, help="calibration images: a data set on the Hub, a folder, or sample")
    parser.add_argument("--output", type=Path, help="folder of the result; by default pruned, in the folder of --work")
    parser.add_argument("--work", type=Path, help="folder for the statistics, from which a killed run continues")
    parser.add_argument("--sweep", metavar="RATIOS", help="measure several ratios, for instance 0.1,0.3,0.5")
    parser.add_argument("--export", metavar="FORMAT", action="append", help="also export, as hf-vbp export --format")
    parser.add_argument("--push", metavar="OWNER/NAME", help="push the result to this repository")
    parser.add_argument("--public", action="store_true", help="make a new repository public; it is private otherwise")
    for name in SHARED:
        parser.add_argument(f"--{name}")
    known, others = parser.parse_known_args(argv)
    if known.sweep and (known.push or known.export):
        parser.error("--sweep writes no model: leave it out, or --push and --export")
    return known, others


def find_package() -> None:
    """Make hf_vbp importable for the commands: from the checkout, the environment, or HF_VBP_SOURCE."""
    checkout = Path(__file__).resolve().parents[1]
    if (checkout / "hf_vbp" / "__init__.py").is_file():
        add_path(checkout)
    elif importlib.util.find_spec("hf_vbp") is None:
        source = os.environ.get("HF_VBP_SOURCE")
        if not source:
            sys.exit(
                "prune.py: hf_vbp is not here. Set HF_VBP_SOURCE to a wheel or an address, for instance "
                "git+https://github.com/OWNER/hf-vbp."
            )
        add_path(install(source))


def install(source: str) -> Path:
    """Install hf_vbp without its dependencies, which the header of this script names, into a folder of its own."""
    target = Path(tempfile.mkdtemp(prefix="hf-vbp-"))
    # The environments of uv have no pip.
    uv = shutil.which("uv")
    tool = [uv, "pip"] if uv else [sys.executable, "-m", "pip"]
    run([*tool, "install", "--quiet", "--no-deps", "--target", str(target), source])
    return target


def add_path(folder: Path) -> None:
    """Let the commands import from a folder."""
    earlier = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *([earlier] if earlier else [])])


def run(command: Sequence[str]) -> None:
    """Run a command; end with its exit code where it fails."""
    code = subprocess.run(command, check=False).returncode
    if code:
        sys.exit(code)


def hf_vbp(*command: str) -> None:
    """Run a command of hf-vbp."""
    run([sys.executable, "-m", "hf_vbp", *command])


def main(argv: Sequence[str] | None = None) -> None:
    """Run the steps that are not finished yet."""
    given, others = arguments(argv)
    find_package()
    named = {name: getattr(given, name.replace("-", "_")) for name in SHARED}
    shared = [part for name, value in named.items() if value is not None for part in (f"--{name}", value)]
    inputs, work = [given.model, "--data", given.data, *shared], given.work
    output = given.output or (work or Path()) / ("sweep.csv" if given.sweep else "pruned")
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
        statistics = work / "statistics.safetensors"
        if not statistics.exists():
            hf_vbp("stats", *inputs, "--output", str(statistics), "--resume", str(work / "state"))
        others = ["--statistics", str(statistics), *others]
    if given.sweep:
        hf_vbp("sweep", *inputs, "--ratios", given.sweep, *others, "--output", str(output))
        return
    if work is None or not (output / FINISHED).exists():
        hf_vbp("prune", *inputs, *others, "--output", str(output))
    for export in given.export or ():
        hf_vbp("export", str(output), "--format", export, "--overwrite")
    if given.push:
        visibility = "--public" if given.public else "--private"
        hf_vbp("push", str(output), given.push, visibility, *(["--exports"] if given.export else []))


if __name__ == "__main__":
    main()

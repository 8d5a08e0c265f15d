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
``push``. With ``--work``, a mounted bucket or any folder, a killed run continues where it ended; a folder with
the result of another request is refused. Options that are not listed by ``--help`` are passed to ``hf-vbp prune`` (or
``sweep``) as they are.

Uses the checkout of hf_vbp that contains it, or the package of the environment, or installs HF_VBP_SOURCE: a wheel, a
folder, or an address that pip accepts.
"""

import argparse
import atexit
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

# The options that `hf-vbp stats` has in common with `prune` and `sweep`: with a value, flags, and repeatable ones.
VALUES = (
    *("split", "data-revision", "image-column", "label-column", "limit", "seed", "batch-size", "num-workers"),
    *("on-bad-image", "revision", "cache-dir", "dtype", "device"),
    *("preset", "criterion", "compensation", "scope", "minimum-width", "round-to"),
)
FLAGS = ("streaming", "interpolate-pos-encoding")
REPEATED = ("criterion-option", "compensation-option", "import")
REQUEST, STATISTICS, STATE, FINISHED = "request.json", "statistics.safetensors", "state", "vbp_results.json"


def arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Return the options of the script, and those for hf-vbp."""
    parser = argparse.ArgumentParser(
        "prune.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("model", help="a Hub id, a folder, or sample")
    parser.add_argument("--data", required=True, help="calibration images: a data set on the Hub, a folder, or sample")
    parser.add_argument(
        "--output", "-o", type=Path, help="folder of the result; by default pruned or sweep, in the folder of --work"
    )
    parser.add_argument("--work", type=Path, help="folder for the statistics, from which a killed run continues")
    parser.add_argument("--sweep", metavar="RATIOS", help="measure several ratios, for instance 0.1,0.3,0.5")
    parser.add_argument("--export", metavar="FORMAT", action="append", help="also export, as hf-vbp export --format")
    parser.add_argument("--push", metavar="OWNER/NAME", help="push the result to this repository")
    parser.add_argument("--public", action="store_true", help="make a new repository public; it is private otherwise")
    for name in VALUES:
        parser.add_argument(f"--{name}")
    for name in FLAGS:
        parser.add_argument(f"--{name}", action="store_true")
    for name in REPEATED:
        parser.add_argument(f"--{name}", action="append")
    known, others = parser.parse_known_args(argv)
    if known.sweep and (known.push or known.export):
        parser.error("--sweep writes no model: leave it out, or --push and --export")
    if known.work and any(word.partition("=")[0] == "--statistics" for word in others):
        parser.error("--work gathers statistics of its own: leave it out, or --statistics")
    return known, others


def shared_options(given: argparse.Namespace) -> list[str]:
    """Return the options for `hf-vbp stats` as well as for the command after it."""
    words = []
    for name in (*VALUES, *FLAGS, *REPEATED):
        value = getattr(given, name.replace("-", "_"))
        if name in FLAGS:
            words += [f"--{name}"] if value else []
        elif value is not None:
            words += [part for one in ([value] if name in VALUES else value) for part in (f"--{name}", one)]
    return words


def entries(words: Sequence[str]) -> list[str]:
    """Return options with their values, one entry for each, in an order that does not depend on that of the user."""
    found: list[str] = []
    for word in words:
        if word.startswith("--") or not found:
            found.append(word.replace("=", " ", 1))
        else:
            found[-1] += f" {word}"
    return sorted(found)


def begin(work: Path, statistics: list[str], result: list[str], output: Path) -> None:
    """Keep the request in the folder of the run, or check that what the folder holds was made by the same one."""
    file, place = work / REQUEST, os.path.relpath(output, work)
    request = {"statistics": statistics, "result": sorted([*result, f"--output {place}"]), "output": place}
    gathered = [path for path in (work / STATISTICS, work / STATE) if path.exists()]
    if file.is_file():
        earlier = json.loads(file.read_text(encoding="utf-8"))
        if earlier == request:
            return
        if (work / earlier["output"] / FINISHED).exists():
            refuse(work, [*earlier["statistics"], *earlier["result"]], [*statistics, *request["result"]])
        if gathered and earlier["statistics"] != statistics:
            refuse(work, earlier["statistics"], statistics)
        gathered = []
    # What is there already must not be taken for the result of this request.
    for path in (*gathered, output / FINISHED):
        if path.exists():
            sys.exit(f"prune.py: {path} belongs to another run; give another folder.")
    work.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".tmp")
    partial.write_text(json.dumps(request, indent=2), encoding="utf-8")
    partial.replace(file)


def refuse(work: Path, earlier: list[str], request: list[str]) -> None:
    """End because the folder of the run holds what another request made."""
    other = [entry for entry in earlier if entry not in request]
    other = other or [f"without {entry}" for entry in request if entry not in earlier]
    sys.exit(f"prune.py: --work {work} holds another run ({', '.join(other)}); give another folder.")


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
    atexit.register(shutil.rmtree, target, ignore_errors=True)
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


def statistics_of(work: Path, inputs: Sequence[str], command: Sequence[str]) -> Path:
    """Gather the statistics, or find those of a killed run; the options of the command after it are checked before."""
    statistics = work / STATISTICS
    if statistics.exists():
        print(f"Already gathered: {statistics}", flush=True)
    else:
        hf_vbp(*command, "--check-options")
        hf_vbp("stats", *inputs, "--output", str(statistics), "--resume", str(work / STATE))
    return statistics


def main(argv: Sequence[str] | None = None) -> None:
    """Run the steps that are not finished yet."""
    given, others = arguments(argv)
    find_package()
    work = given.work
    inputs = [given.model, "--data", given.data, *shared_options(given)]
    output = given.output or (work or Path()) / ("sweep" if given.sweep else "pruned")
    step = ["sweep", *inputs, "--ratios", given.sweep] if given.sweep else ["prune", *inputs]
    step += [*others, "--output", str(output)]
    if work is not None:
        sweep = ["--sweep", given.sweep] if given.sweep else []
        begin(work, entries(["MODEL", *inputs]), entries([*sweep, *others]), output)
        step += ["--statistics", str(statistics_of(work, inputs, step))]
    if given.sweep:
        # Finished rows of its table are kept, so a killed sweep continues.
        hf_vbp(*step)
        return
    if work is not None and (output / FINISHED).exists():
        print(f"Already pruned: {output}", flush=True)
    else:
        hf_vbp(*step)
    for export in given.export or ():
        hf_vbp("export", str(output), "--format", export, "--overwrite")
    if given.push:
        visibility = "--public" if given.public else "--private"
        hf_vbp("push", str(output), given.push, visibility, *(["--exports"] if given.export else []))


if __name__ == "__main__":
    main()

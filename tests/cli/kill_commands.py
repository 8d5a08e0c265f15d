"""Runs commands of hf-vbp again and again, ended by SIGKILL or SIGTERM at one operation on their output after another.

Run with a new folder, the number of points, and names of commands. Every attempt is a forked process that runs the
whole command line and sends the signal to itself. Prints one JSON object per attempt.
"""

import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from tests.checkpoint.kill_points import WATCHED, forked


def command_line(work: Path, name: str, place: Path, *, new: bool) -> list[str]:
    """Return the arguments that write the new output (or the old one) in ``place``."""
    ratio, limit = ("0.5", "10") if new else ("0.3", "5")
    model, images, output = str(work / "model"), str(work / "images"), str(place / "out")
    method = ["--criterion", "variance", "--compensation", "mean"]
    rest = {
        "stats": ["stats", model, "--data", images, "--limit", limit, *method],
        "plan": ["plan", model, "--statistics", str(work / "statistics"), "--ratio", ratio, *method],
        "prune": ["prune", model, "--statistics", str(work / "statistics"), "--ratio", ratio, *method],
        "finetune": ["finetune", str(work / "pruned"), f"teacher={model}", "--data", images,
                     "training.use_cpu=true", "training.max_steps=1", f"training.seed={limit}",
                     "training.learning_rate=1e-3"],
    }[name]  # fmt: skip
    return [*rest, "--output", output, "--overwrite", "--quiet"]


def call(arguments: list[str]) -> int:
    """Run the command line as the installed script does, and return its exit code."""
    from hf_vbp.cli.app import main

    sys.argv = ["hf-vbp", *arguments]
    try:
        with open(os.devnull, "w") as null, redirect_stdout(null):
            main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


def run_command(arguments: list[str]) -> None:
    """Run the command line; its exit code becomes that of this process."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os._exit(call(arguments))


def ended_at(point: int, number: int, place: Path, work: Callable[[], None], counted: Path | None = None) -> None:
    """Run ``work`` and send the signal to this process at one operation on files in ``place``."""
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in WATCHED and str(arguments[0]).startswith(str(place)):
            if counted is not None:
                counted.write_bytes(bytes(seen + 1))
            seen += 1
            if seen - 1 == point:
                os.kill(os.getpid(), number)

    sys.addaudithook(hook)
    work()


def content(path: Path) -> dict[str, str]:
    """Return name to hash of the output; of the results, which hold times, only the plan counts."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    found = {}
    for file in files:
        data = file.read_bytes()
        if file.name == "vbp_results.json":
            data = json.dumps(json.loads(data)["plan"]).encode()
        if file.name not in ("vbp_manifest.json", "recipe.yaml"):
            found[file.name] = hashlib.sha256(data).hexdigest()
    return found


def hidden(place: Path) -> list[str]:
    """Return what is in the folder next to the output and was not asked for."""
    return sorted(path.name for path in place.iterdir() if path.name.startswith(".") or "unverified" in path.name)


def attempts(name: str, work: Path, points: int) -> Iterator[dict[str, Any]]:
    """End a command at many points; yields what each attempt left, and what the next run made of it."""
    places = work / name
    for label in ("old", "new"):
        place = places / label
        place.mkdir(parents=True)
        arguments = command_line(work, name, place, new=label == "new")
        code = forked(lambda arguments=arguments: run_command(arguments))
        assert code == 0, (name, label, code)
    states = {json.dumps(content(places / label / "out")): label for label in ("old", "new")}
    assert len(states) == 2

    def state(place: Path) -> str:
        if not (place / "out").exists():
            return "none"
        return states.get(json.dumps(content(place / "out")), "mixed")

    def attempt(point: int, number: int, counted: Path | None = None) -> dict[str, Any]:
        place = places / f"at{point}"
        place.mkdir()
        copy = shutil.copytree if (places / "old" / "out").is_dir() else shutil.copy
        copy(places / "old" / "out", place / "out")
        arguments = command_line(work, name, place, new=True)
        code = forked(lambda: ended_at(point, number, place, lambda: run_command(arguments), counted))
        found = {"command": name, "point": point, "signal": number, "code": code, "after": state(place)}
        found["left"] = hidden(place)
        again = forked(lambda: run_command(arguments))
        return {**found, "again": again, "end": state(place), "left_at_the_end": hidden(place)}

    counted = places / "count"
    yield attempt(1_000_000, 0, counted)
    last = counted.stat().st_size - 1
    for index, point in enumerate(sorted({round(share * last / (points - 1)) for share in range(points)})):
        yield attempt(point, signal.SIGTERM if index % 3 == 1 else signal.SIGKILL)


def prepare(work: Path) -> None:
    """Make a model, images, statistics and a pruned checkpoint."""
    import torch

    from hf_vbp.checkpoint import receipt, saving
    from tests.cli.helpers import save_images, save_tiny

    # A receipt takes seconds in fresh processes, which have nothing to do with the output.
    saving.take_receipt = lambda model, folder, **_: receipt.Receipt(Path(folder))  # type: ignore[assignment]
    torch.set_num_threads(1)
    work.mkdir()
    save_tiny(work / "model")
    save_images(work / "images")
    model, file = str(work / "model"), str(work / "statistics")
    method = ["--criterion", "variance", "--compensation", "mean", "--quiet"]
    for arguments in (
        ["stats", model, "--data", str(work / "images"), "--output", file, *method],
        ["prune", model, "--statistics", file, "--ratio", "0.5", "--output", str(work / "pruned"), *method],
    ):
        # In this process, so that what the attempts import is imported once.
        call(arguments)


if __name__ == "__main__":
    folder, count, *names = sys.argv[1:]
    prepare(Path(folder))
    for command in names:
        for done in attempts(command, Path(folder), int(count)):
            print(json.dumps(done), flush=True)

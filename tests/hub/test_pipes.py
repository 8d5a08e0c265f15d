"""A pipe in the place of any file of a checkpoint: nothing that reads the folder waits for a writer."""

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import hf_vbp
from hf_vbp.checkpoint.atomic_folder import check_output_directory
from hf_vbp.checkpoint.manifest import MANIFEST, write_manifest
from hf_vbp.checkpoint.receipt import applicable_ways
from hf_vbp.checkpoint.remote_code import inspect_code
from hf_vbp.checkpoint.unverified import MARKER, read_unverified, unverified_path
from hf_vbp.distillation.checkpoints import last_checkpoint
from hf_vbp.errors import CheckpointError, HfVbpError, OutputError, PlanError
from hf_vbp.hub.files import checkpoint_files, read_text
from hf_vbp.hub.preflight import all_shapes
from hf_vbp.pruning.plan import PruningPlan
from hf_vbp.results.record import load_results
from hf_vbp.workflow.finetune.start import _records
from hf_vbp.workflow.sweep_table import SweepTable

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes in folders")

NAMES = (
    "config.json", "model.safetensors", "model.safetensors.index.json", "modeling_hf_vbp.py", "plan.json",
    "recipe.yaml", "preprocessor_config.json", "vbp_manifest.json", "vbp_results.json", "README.md",
)  # fmt: skip
READERS: dict[str, Callable[[Path], Any]] = {
    "from_pretrained": hf_vbp.from_pretrained,
    "overwrite": lambda folder: check_output_directory(folder, overwrite=True),
    "ways": applicable_ways,
    "code": inspect_code,
    "push": checkpoint_files,
    "shapes": all_shapes,
    "results": load_results,
    "plan": lambda folder: PruningPlan.load(folder / "plan.json"),
    "card": lambda folder: read_text(folder / "README.md"),
    "finetune": lambda folder: _records(str(folder), None),
}
# Those that read the file whatever else the folder holds, and so must refuse the pipe.
REFUSED = {
    "config.json": {"from_pretrained", "ways", "code", "push", "overwrite"},
    "model.safetensors": {"from_pretrained", "push", "shapes", "overwrite"},
    "plan.json": {"plan", "push", "finetune", "overwrite"},
    "preprocessor_config.json": {"push", "overwrite"},
    "vbp_results.json": {"results", "push", "finetune", "overwrite"},
    "vbp_manifest.json": {"overwrite"},
    "README.md": {"card", "overwrite"},
}


@contextmanager
def no_waiting() -> Iterator[None]:
    """Interrupt the block where it waits for the writer of a pipe."""

    def stop(*_: Any) -> None:
        raise AssertionError("waits for the writer of a pipe")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(20)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", NAMES)
def test_a_pipe_in_a_checkpoint_is_never_waited_for(checkpoint: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    write_manifest(folder)
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    refused = set()
    for reader, read in READERS.items():
        with no_waiting():
            try:
                read(folder)
            except HfVbpError:
                refused.add(reader)
    assert refused >= REFUSED.get(name, set())


def test_a_pipe_that_the_manifest_lists_is_no_file_of_the_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("")
    write_manifest(tmp_path)
    (tmp_path / "config.json").unlink()
    os.mkfifo(tmp_path / "config.json")
    with no_waiting(), pytest.raises(CheckpointError, match=r"holds config.json, which was changed"):
        check_output_directory(tmp_path, overwrite=True)


def test_pipes_next_to_outputs_and_in_runs(tmp_path: Path) -> None:
    kept = unverified_path(tmp_path / "output")
    for folder in (kept, tmp_path / "checkpoint-3"):
        folder.mkdir()
    os.mkfifo(kept / MARKER)
    os.mkfifo(tmp_path / "checkpoint-3" / "trainer_state.json")
    os.mkfifo(tmp_path / "sweep.csv")
    with no_waiting():
        with suppress(CheckpointError):
            read_unverified(tmp_path / "output")
        assert last_checkpoint(tmp_path) is None
        with pytest.raises(OutputError, match="it is not a regular file"):
            SweepTable.load(tmp_path / "sweep.csv")


def test_a_file_of_any_size_is_not_read(tmp_path: Path) -> None:
    for name in (MANIFEST, "plan.json"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(2**40)
    with pytest.raises(CheckpointError, match=r"it has 1,099,511,627,776 bytes, expected at most"):
        check_output_directory(tmp_path, overwrite=True)
    with pytest.raises(PlanError, match=r"it has 1,099,511,627,776 bytes, expected at most"):
        PruningPlan.load(tmp_path / "plan.json")

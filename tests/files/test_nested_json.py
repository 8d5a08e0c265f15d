"""Every file of JSON that is read back may be nested deeply, and is then refused or ignored as any damaged file."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hf_vbp.checkpoint.receipt import _read_config
from hf_vbp.checkpoint.unverified import read_unverified, unverified_path
from hf_vbp.distillation.checkpoints import _is_whole
from hf_vbp.errors import CheckpointError, HfVbpError, StatisticsError
from hf_vbp.files.atomic import is_hidden_folder
from hf_vbp.files.layout import UNVERIFIED
from hf_vbp.statistics.stored_sites import load_folder
from hf_vbp.workflow.finetune.start import _records

DEEP = "[" * 100_000


def put(folder: Path, name: str, text: str = DEEP) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder


REFUSED: dict[str, tuple[type[HfVbpError], Callable[[Path], object]]] = {
    "config of a checkpoint": (CheckpointError, lambda here: _read_config(put(here, "config.json"))),
    "names of sites": (StatisticsError, lambda here: load_folder(put(here, "sites.json"))),
    "plan of a checkpoint": (CheckpointError, lambda here: _records(str(put(here, "plan.json")), None)),
    "marker of a trained model": (
        CheckpointError,
        lambda here: read_unverified((put(unverified_path(here / "out"), UNVERIFIED), here / "out")[1]),
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_nested_file_is_refused(kind: str, tmp_path: Path) -> None:
    error, read = REFUSED[kind]
    with pytest.raises(error):
        read(tmp_path)


def test_a_nested_file_of_an_unfinished_folder_is_no_mark(tmp_path: Path) -> None:
    assert not is_hidden_folder(put(tmp_path / f".out.{'0' * 12}.partial", "hf_vbp_unfinished.json"), tmp_path / "out")
    assert not _is_whole(put(tmp_path / "checkpoint-5", "trainer_state.json"))


@pytest.mark.parametrize("text", ["[]", "3", "null", '"plan"'])
def test_a_plan_that_is_no_object_is_refused_before_its_fields_are_read(text: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"plan\.json is .*, not a plan"):
        _records(str(put(tmp_path, "plan.json", text)), None)

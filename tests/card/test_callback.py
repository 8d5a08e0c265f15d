"""The folder of the callback is checked before the training, and the user's text in its card is kept."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import hf_vbp
from hf_vbp.errors import CheckpointError
from hf_vbp.hub.publish_callback import PublishCallback
from tests.hub.helpers import make_checkpoint

STATE = SimpleNamespace(is_world_process_zero=True, epoch=1.0, global_step=1, log_history=[], max_steps=1)


def arguments(folder: Path) -> Any:
    from transformers import TrainingArguments

    return TrainingArguments(str(folder / "run"), use_cpu=True, report_to="none")


@pytest.fixture
def pruned(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "pruned")


def test_a_folder_that_must_not_be_written_is_refused_before_the_training(pruned: Path, tmp_path: Path) -> None:
    args, model = arguments(tmp_path), hf_vbp.from_pretrained(pruned)
    with pytest.raises(CheckpointError, match="is the pruned checkpoint of this run"):
        PublishCallback(pruned, pruned).on_train_begin(args, STATE, None, model=model)
    (tmp_path / "run" / "final").mkdir(parents=True)
    (tmp_path / "run" / "final" / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"holds notes\.txt"):
        PublishCallback(pruned).on_train_begin(args, STATE, None, model=model)


def test_text_of_the_user_in_the_card_is_kept(pruned: Path, tmp_path: Path) -> None:
    args, model = arguments(tmp_path), hf_vbp.from_pretrained(pruned)
    card = tmp_path / "run" / "final" / "README.md"
    for _ in range(2):
        callback = PublishCallback(pruned, verify=False)
        callback.on_train_begin(args, STATE, None, model=model)
        callback.on_train_end(args, STATE, None, model=model)
        text = card.read_text(encoding="utf-8")
        card.write_text(text + "\n## Contact\n\nme\n", encoding="utf-8")
    assert text.count("## Contact") == 1

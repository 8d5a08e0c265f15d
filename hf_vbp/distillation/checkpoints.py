"""Find the checkpoints of a run, and the newest one that is complete."""

import json
import re
from pathlib import Path

from hf_vbp.files.text import read_small_text

_NAME = re.compile(r"checkpoint-(\d+)")
# Trainer writes this file last, so a checkpoint that has it is complete.
_WRITTEN_LAST = "trainer_state.json"


def is_training_checkpoint(directory: str | Path | None) -> bool:
    """Whether a folder has the name of a checkpoint of a run, rather than of its result."""
    return directory is not None and _NAME.fullmatch(Path(directory).name) is not None


def training_checkpoints(directory: str | Path) -> list[Path]:
    """Return the checkpoints in the folder of a run, complete or not, the newest first."""
    folders = [path for path in Path(directory).glob("checkpoint-*") if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(folders, key=lambda path: int(path.name.partition("-")[2]), reverse=True)


def last_checkpoint(directory: str | Path) -> Path | None:
    """Return the newest complete checkpoint in the folder of a run; None where there is none.

    A checkpoint that a killed run left incomplete is skipped; the search of transformers does not skip it.
    """
    return next((path for path in training_checkpoints(directory) if _is_whole(path)), None)


def _is_whole(path: Path) -> bool:
    try:
        state = json.loads(read_small_text(path / _WRITTEN_LAST))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(state, dict) and "global_step" in state

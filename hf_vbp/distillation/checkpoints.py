"""The checkpoints of a run that is under way: which of them are whole."""

import json
import re
from pathlib import Path

_NAME = re.compile(r"checkpoint-(\d+)")
# Trainer writes this file last, so a checkpoint that has it is whole.
_WRITTEN_LAST = "trainer_state.json"


def is_training_checkpoint(directory: str | Path | None) -> bool:
    """Tell whether a folder is named as a checkpoint of a run under way, not as its result."""
    return directory is not None and _NAME.fullmatch(Path(directory).name) is not None


def training_checkpoints(directory: str | Path) -> list[Path]:
    """Return the checkpoints in the folder of a run, whole or not, the newest first."""
    folders = [path for path in Path(directory).glob("checkpoint-*") if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(folders, key=lambda path: int(path.name.partition("-")[2]), reverse=True)


def last_checkpoint(directory: str | Path) -> Path | None:
    """Return the newest whole checkpoint in the folder of a run; None where there is none.

    One that a kill left half written is passed over, which transformers' own search does not do.
    """
    return next((path for path in training_checkpoints(directory) if _is_whole(path)), None)


def _is_whole(path: Path) -> bool:
    try:
        state = json.loads((path / _WRITTEN_LAST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(state, dict) and "global_step" in state

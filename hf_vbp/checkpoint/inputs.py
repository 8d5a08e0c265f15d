"""Keep the inputs of a run: no output may replace or remove them."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from hf_vbp.checkpoint.manifest import is_checkpoint_file
from hf_vbp.errors import CheckpointError, OutputError
from hf_vbp.files.layout import CONFIG

Source = str | os.PathLike[str] | None
_PATTERN = re.compile(r"[*?\[{]")


def local_path(source: Source) -> Path | None:
    """Return the path of an input on this machine; None for others, such as a name on the Hub.

    Args:
        source: A path, the pattern of tar shards, a name on the Hub, ``sample`` or None.
    """
    text = "" if source is None else os.fspath(source)
    if not text or "\0" in text:
        return None
    if text == "sample":
        return Path(__file__).parents[1] / "sample"
    path = Path(os.path.expanduser(text))
    if not path.exists() and (found := _PATTERN.search(str(path))):
        # The shards are somewhere below the last folder that the pattern names in full.
        path = Path(str(path)[: found.start()] + "-").parent
    return Path(os.path.realpath(path)) if path.exists() else None


def check_apart(output: str | os.PathLike[str], inputs: Mapping[str, Source]) -> None:
    """Refuse an output folder that is, or contains, an input of the same run.

    Args:
        output: The folder. Nothing is refused where it does not exist.
        inputs: Paths or names by their description, for instance ``{"the model": "vit"}``.

    Raises:
        CheckpointError: Names the input.
    """
    folder = Path(os.path.expanduser(output))
    if not folder.exists():
        return
    for label, source in inputs.items():
        path = local_path(source)
        if path is None:
            continue
        if os.path.samefile(folder, path):
            raise CheckpointError(
                f"The output {output} is {label} of this run, which must not be overwritten. Choose another output."
            )
        if any(os.path.samefile(folder, parent) for parent in path.parents):
            raise CheckpointError(
                f"The output {output} contains {label} of this run ({source}), which must not be overwritten. "
                "Choose another output."
            )


def check_file_apart(output: str | os.PathLike[str], inputs: Mapping[str, Source]) -> None:
    """Refuse an output file that is an input of the same run, or part of one.

    A new file next to those of a model is accepted; one among images or in a data set is not.

    Args:
        output: The file. Nothing is refused where it does not exist.
        inputs: Paths or names by their description.

    Raises:
        OutputError: Names the input.
    """
    file = Path(os.path.realpath(os.path.expanduser(output)))
    if not file.exists():
        return
    for label, source in inputs.items():
        path = local_path(source)
        if path is None:
            continue
        within = path.is_dir() and any(os.path.samefile(path, parent) for parent in file.parents)
        is_own = not (path / CONFIG).is_file() or is_checkpoint_file(file.name)
        if os.path.samefile(file, path) or (within and is_own):
            raise OutputError(
                f"The output {output} is {label} of this run, or part of it, which must not be overwritten. "
                "Choose another output."
            )

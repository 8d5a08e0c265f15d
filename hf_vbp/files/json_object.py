"""Read a JSON object from a file that may be of anything."""

import json
from pathlib import Path
from typing import Any

from hf_vbp._progress import one_line
from hf_vbp.errors import CheckpointError
from hf_vbp.files.text import read_small_text


def read_json_object(path: Path, advice: str) -> dict[str, Any]:
    """Return the JSON object in a file of a checkpoint or an export.

    Args:
        path: The file.
        advice: The last sentence of an error: what to do.

    Raises:
        CheckpointError: It cannot be read, or is not a JSON object.
    """
    try:
        content = json.loads(read_small_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read ({one_line(error)}). {advice}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object. {advice}")
    return content

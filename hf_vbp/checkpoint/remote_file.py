"""The one place that writes ``auto_map``, and it writes the file that ``auto_map`` names with it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hf_vbp.modeling import modeling_hf_vbp

REMOTE_FILE = "modeling_hf_vbp.py"


@contextmanager
def remote_file_beside(config: Any, directory: str | os.PathLike[str]) -> Iterator[None]:
    """Write the remote file to a folder, and let a config that is saved inside the block name it.

    The config in memory is afterwards as it was before: what is saved later, without the file, must not name it.

    Args:
        config: A config with a ``vbp`` record.
        directory: The folder that the config is about to be saved to.
    """
    entries = modeling_hf_vbp.auto_map(config)
    if not entries or os.path.isfile(directory):
        yield
        return
    os.makedirs(directory, exist_ok=True)
    shutil.copyfile(modeling_hf_vbp.__file__, Path(directory) / REMOTE_FILE)
    had = "auto_map" in vars(config)
    before = vars(config).get("auto_map")
    config.auto_map = {**(before or {}), **entries}
    try:
        yield
    finally:
        if had:
            config.auto_map = before
        else:
            del config.auto_map

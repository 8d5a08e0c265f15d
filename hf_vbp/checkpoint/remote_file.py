"""The one place that writes ``auto_map``, together with the file that it names."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hf_vbp.files.layout import MODELING_FILE
from hf_vbp.modeling import modeling_hf_vbp


@contextmanager
def remote_file_in(directory: str | os.PathLike[str], config: Any) -> Iterator[None]:
    """Write the modeling file to a folder; a config that is saved to it inside the block names the file.

    The config in memory is unchanged afterwards, since it must not name the file when it is saved without it.

    Args:
        directory: The folder that the config will be saved to.
        config: A config with a ``vbp`` record.
    """
    entries = modeling_hf_vbp.auto_map(config)
    universal = entries.get("AutoModelForUniversalSegmentation")
    if universal:
        # The segmentation pipeline has no such auto class, and would open the class of transformers instead.
        entries.setdefault("AutoModelForImageSegmentation", universal)
    if not entries or os.path.isfile(directory):
        yield
        return
    os.makedirs(directory, exist_ok=True)
    shutil.copyfile(modeling_hf_vbp.__file__, Path(directory) / MODELING_FILE)
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

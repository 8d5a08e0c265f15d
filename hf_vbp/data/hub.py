"""Images in data sets of the Hub, and in local folders that ``datasets`` reads."""

import glob
import os
import re
from pathlib import Path
from typing import Any

from hf_vbp._progress import one_line
from hf_vbp.data.dataset import open_dataset
from hf_vbp.data.records import ImageSource
from hf_vbp.data.splits import choose_split, plain_split
from hf_vbp.errors import DataError

_COMMIT = re.compile(r"@([0-9a-f]{40})/")


def open_hub(
    name: str,
    *,
    split: str | None,
    revision: str | None,
    streaming: bool,
    purpose: str,
    columns: tuple[str | None, str | None],
    shuffle_buffer: int,
    token: str | bool | None = None,
    cache_dir: str | None = None,
) -> ImageSource:
    """Open a data set ``name[:config]`` of the Hub, or a local folder that ``datasets`` can read.

    Raises:
        DataError: The data set, its configuration, its split or its columns cannot be found or reached.
    """
    import datasets

    path, _, config = (name, "", "") if Path(name).exists() else name.partition(":")
    builder = _builder(path, config or None, revision=revision, token=token, cache_dir=cache_dir)
    known = list(builder.info.splits or getattr(builder.config, "data_files", None) or ())
    chosen = choose_split(known, split, purpose, name)
    try:
        if streaming:
            dataset = builder.as_streaming_dataset(split=chosen)
        else:
            builder.download_and_prepare()
            dataset = builder.as_dataset(split=chosen)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"The split {chosen!r} of the data set {name} cannot be read: {one_line(error)}.") from error
    shown = name if not Path(name).exists() else Path(name).resolve().name
    provenance = {
        "source": shown,
        "kind": "hub",
        "split": chosen,
        "revision": _resolved_revision(builder, chosen) or revision,
        "fingerprint": f"builder:{builder.hash}" if builder.hash else None,
    }
    total = _examples(builder, chosen)
    return open_dataset(dataset, provenance, columns, total=total, shuffle_buffer=shuffle_buffer)


def _builder(path: str, config: str | None, **hub: Any) -> Any:
    import datasets

    try:
        return datasets.load_dataset_builder(path, config, **hub, **_escaped_files(path))
    except datasets.exceptions.DatasetNotFoundError as error:
        raise DataError(
            f"There is no data set {path} on the Hub, or you have no access to it, and no such folder here: "
            f"check the name, accept its terms on the Hub, or log in with `hf auth login` ({one_line(error)})."
        ) from error
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"The data set {path} cannot be fetched from the Hub, and there is no such folder here "
            f"({one_line(error)}): check the name and the connection."
        ) from error
    except ValueError as error:
        wanted = f"configuration {config!r}" if config else "no configuration"
        reason = " ".join(str(error).split("Example of usage")[0].split())
        raise DataError(
            f"The data set {path} cannot be opened with {wanted} ({reason}): name one as {path}:CONFIGURATION."
        ) from error


def _escaped_files(path: str) -> dict[str, Any]:
    """Return the files of a local folder whose path ``datasets`` would take for a pattern, with their splits.

    Raises:
        DataError: The folder's card names its files, which cannot be combined with such a path.
    """
    import datasets
    from datasets.data_files import get_data_patterns

    folder = str(Path(path).resolve())
    if not Path(path).is_dir() or glob.escape(folder) == folder:
        return {}
    card = Path(path) / "README.md"
    if card.is_file() and re.search(r"^(configs|dataset_info):", card.read_text(encoding="utf-8"), re.M):
        raise DataError(
            f"The data set in {path} has a card that describes its files, and its path has characters of a pattern "
            "([, * or ?). Rename the folder, or move it."
        )
    try:
        patterns = get_data_patterns(glob.escape(folder))
    except (FileNotFoundError, datasets.exceptions.DatasetsError):
        # Reported when the folder is opened.
        return {}
    escaped = {
        str(split): [os.path.join(glob.escape(folder), pattern) for pattern in found]
        for split, found in patterns.items()
    }
    return {"data_files": escaped}


def _resolved_revision(builder: Any, split: str) -> str | None:
    """Return the commit of the files on the Hub, where the builder knows it."""
    files = getattr(builder.config, "data_files", None) or {}
    for file in files.get(plain_split(split), ()):
        match = _COMMIT.search(str(file))
        if match:
            return match.group(1)
    return None


def _examples(builder: Any, split: str) -> int | None:
    info = (builder.info.splits or {}).get(split)
    return info.num_examples or None if info is not None else None

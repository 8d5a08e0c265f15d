"""The names of a model's classes, and the map from the classes of a data set to them, as arguments or files."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_vbp._progress import one_line
from hf_vbp.errors import LabelError
from hf_vbp.files.wrong_file import missing_or_special

ModelLabels = str | os.PathLike[str] | Sequence[str] | Mapping[Any, str]
LabelMap = str | os.PathLike[str] | Mapping[Any, str | int]
_MOST_BYTES = 64 * 2**20


def read_model_labels(given: ModelLabels, expected: int | None) -> dict[int, str]:
    """Return the class names of a model by id.

    Args:
        given: The names in order of id, a mapping from id to name, or a file with either as JSON, or with one name
            per line.
        expected: The number of classes of the model; None where it is not known.

    Raises:
        LabelError: The file cannot be read, or the names are not those of so many classes.
    """
    source = "model_labels"
    value: Any = given
    if isinstance(given, str | os.PathLike):
        source, text = _read(given, "model_labels")
        value = _json(text, source) if text.lstrip()[:1] in ("[", "{") else text.rstrip().split("\n")
    if isinstance(value, Mapping):
        value = _in_order(value, source)
    names = list(value)
    wrong = next((index for index, name in enumerate(names) if not isinstance(name, str) or not name.strip()), None)
    if not names or wrong is not None:
        found = "no names" if wrong is None else f"{names[wrong]!r} for class {wrong}"
        raise LabelError(f"{source} holds {found}; expected one name for each class of the model, in order of id.")
    if expected is not None and len(names) != expected:
        raise LabelError(
            f"{source} holds {len(names)} names, but the model has {expected} classes; expected one name for each "
            f"class, in order of id."
        )
    return {index: name.strip() for index, name in enumerate(names)}


def _in_order(names: Mapping[Any, Any], source: str) -> list[Any]:
    by_id = {str(index): name for index, name in names.items()}
    if set(by_id) != set(map(str, range(len(by_id)))):
        raise LabelError(
            f"{source} is a mapping whose keys are not the ids 0 to {len(names) - 1}: give every id once."
        )
    return [by_id[str(index)] for index in range(len(by_id))]


def read_label_map(given: LabelMap) -> dict[str, str | int]:
    """Return a map from classes of a data set to labels or ids of a model.

    Args:
        given: A mapping, or a file with one as a JSON object, or with a class, a tab and a label on each line.

    Raises:
        LabelError: The file cannot be read, or has other content.
    """
    source = "label_map"
    value: Any = given
    if isinstance(given, str | os.PathLike):
        source, text = _read(given, "label_map")
        value = _json(text, source) if text.lstrip()[:1] in ("[", "{") else _lines(text, source)
    if not isinstance(value, Mapping) or not value:
        raise LabelError(f"{source} holds {type(value).__name__}; expected a map from class to label, with an entry.")
    for name, label in value.items():
        if isinstance(label, bool) or not isinstance(label, str | int):
            raise LabelError(
                f"{source} gives {label!r} for the class {name!r}; expected a label of the model or its id."
            )
    return {str(name): label for name, label in value.items()}


def _lines(text: str, source: str) -> dict[str, str]:
    found = {}
    for number, line in enumerate(text.splitlines(), start=1):
        name, tab, label = line.partition("\t")
        if line.strip() and not tab:
            raise LabelError(
                f"{source} has no tab in line {number}; expected a class, a tab and a label of the model."
            )
        if tab:
            found[name.strip()] = label.strip()
    return found


def _read(given: str | os.PathLike[str], option: str) -> tuple[str, str]:
    """Return the name of a file for an error, and its text."""
    path = Path(given).expanduser()
    source = f"{option} {path}"
    try:
        reason = missing_or_special(path)
        if reason is not None:
            raise OSError(reason)
        if path.stat().st_size > _MOST_BYTES:
            raise OSError("it is larger than 64 MiB")
        return source, path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise LabelError(f"{source} cannot be read ({one_line(error)}): give a text or JSON file in UTF-8.") from error


def _json(text: str, source: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LabelError(f"{source} is not valid JSON ({one_line(error)}): correct it.") from error

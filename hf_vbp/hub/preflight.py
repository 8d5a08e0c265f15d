"""The checks before anything is sent: the folder is complete and consistent, and holds nothing private."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_vbp._progress import one_line
from hf_vbp.data.labels import are_placeholders
from hf_vbp.errors import CheckpointError
from hf_vbp.files.layout import CONFIG, INDEX, WEIGHTS
from hf_vbp.hub.files import PushFile, read_json, weight_names

_TOKEN = re.compile(r"(hf_|api_org_)[A-Za-z0-9]{30,}")
# Characters as JSON and YAML may write them.
_ESCAPED = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|x([0-9A-Fa-f]{2})|U0000([0-9A-Fa-f]{4}))")
Shape = tuple[int, ...]
_MOST_MLPS = 10_000


def tensor_shapes(path: Path) -> dict[str, Shape]:
    """Return name to shape of the tensors in a safetensors file, without reading the tensors.

    Raises:
        CheckpointError: The file is truncated or is not a safetensors file.
    """
    with _opened(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def _opened(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        # Only the header is read, so that no framework has to know the dtypes.
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or truncated ({one_line(error)}). Save it again.") from error


def all_shapes(directory: Path) -> dict[str, Shape]:
    """Return name to shape of all tensors of a checkpoint, sharded or not.

    Raises:
        CheckpointError: A shard lacks a tensor that the index assigns to it.
    """
    names = weight_names(directory)
    if names == [WEIGHTS]:
        return tensor_shapes(directory / WEIGHTS)
    shards = {name: tensor_shapes(directory / name) for name in names if name != INDEX}
    for tensor, shard in read_json(directory, INDEX)["weight_map"].items():
        if tensor not in shards[str(shard)]:
            raise CheckpointError(f"{directory / shard} lacks the tensor {tensor} that {INDEX} assigns to it.")
    return {name: shape for shapes in shards.values() for name, shape in shapes.items()}


def check_widths(config: Mapping[str, Any], results: Mapping[str, Any], shapes: Iterable[Shape]) -> None:
    """Refuse a config whose widths differ from those of the weights or of the results.

    Names of modules differ between families and versions, so the matrices with each width on either side are
    counted; only loading in a fresh process verifies them fully. The results hold the MLPs that were pruned, and the
    config all MLPs of the same names.

    Raises:
        CheckpointError: They do not match; the message names the difference.
    """
    measured = list(results["plan"]["widths"])
    record = config.get("vbp")
    recorded: Any = record.get("widths") if isinstance(record, Mapping) else None
    if recorded is None and "intermediate_size" in config and measured:
        recorded = [config["intermediate_size"]] * len(measured)
    if recorded is None:
        return
    if recorded != measured and not _is_partly_pruned(record, measured):
        raise CheckpointError(
            f"{CONFIG} records the widths {_shown(recorded)}, but the results file {_shown(measured)}: the two are "
            "not of one checkpoint. Save it again."
        )
    matrices = [shape for shape in shapes if len(shape) == 2]
    outputs, inputs = (Counter(shape[axis] for shape in matrices) for axis in (0, 1))
    counted: Counter[int] = Counter(recorded)
    for width, times in counted.items():
        if width and min(outputs[width], inputs[width]) < times:
            raise CheckpointError(
                f"{CONFIG} records {times} MLPs of width {width}, but the weights hold fewer matrices of that width. "
                "The config does not belong to these weights. Save the checkpoint again."
            )


def _is_partly_pruned(record: Any, measured: Sequence[int]) -> bool:
    """Return whether a record holds the measured widths in their order, and otherwise MLPs of their dense width."""
    if not isinstance(record, Mapping):
        return False
    widths: Any = record.get("widths")
    dense_widths: Any = record.get("dense_widths")
    if not all(isinstance(found, list) and {int} == set(map(type, found)) for found in (widths, dense_widths)):
        return False
    if len(widths) != len(dense_widths) or not len(measured) < len(widths) < _MOST_MLPS:
        return False
    # The numbers of measured widths that the first entries of the record can account for.
    explained = {0}
    for width, dense in zip(widths, dense_widths, strict=True):
        pruned = {count + 1 for count in explained if count < len(measured) and measured[count] == width}
        explained = pruned | explained if width == dense else pruned
    return len(measured) in explained


def _shown(value: Any) -> str:
    return one_line(ValueError(repr(value)), 200)


def check_secrets(files: Sequence[PushFile]) -> None:
    """Refuse files that hold something like a Hub token; the message does not show it.

    Text files are also searched with their escapes (of JSON and YAML) resolved, safetensors files in their names
    and metadata.

    Raises:
        CheckpointError: A file holds one.
    """
    for file in files:
        if any(_TOKEN.search(text) for text in _texts(file)):
            raise CheckpointError(
                f"{file.path} seems to hold a Hub token; nothing was sent. Remove it, and revoke the token "
                "if others have the file."
            )


def _texts(file: PushFile) -> Iterator[str]:
    if file.is_text:
        text = file.read().decode("utf-8", errors="replace")
        yield text
        yield _ESCAPED.sub(lambda match: chr(int(match[1] or match[2] or match[3], 16)), text)
    elif isinstance(file.source, Path) and file.path.endswith(".safetensors"):
        with _opened(file.source) as weights:
            yield " ".join([*weights.keys(), *(f"{key} {value}" for key, value in (weights.metadata() or {}).items())])


def private_paths(files: Sequence[PushFile], directory: Path) -> list[str]:
    """Return a note for each text file that names the home directory or the folder of the checkpoint."""
    places = {str(Path.home()), str(directory.resolve())} - {"/"}
    return [
        f"{file.path} names a path of this machine."
        for file in files
        if file.is_text and any(place.encode() in file.read() for place in places)
    ]


def unnamed_classes(directory: Path) -> list[str]:
    """Return a note where the labels of a classifier are placeholders, which the Hub and pipelines would show."""
    labels = read_json(directory, CONFIG).get("id2label")
    names = [name for name in labels.values() if isinstance(name, str)] if isinstance(labels, Mapping) else []
    if not names or not are_placeholders(names):
        return []
    return [
        f"The model names no classes ({names[0]}, ...), and its users see these names. Prune it with --model-labels "
        "FILE, or set id2label and label2id in the config of the dense model before it is pruned."
    ]


def check_checkpoint(directory: Path, files: Sequence[PushFile], results: Mapping[str, Any]) -> None:
    """Check everything that can be checked without loading the model.

    Raises:
        CheckpointError: The checkpoint is not complete or not consistent, or holds a token.
    """
    check_secrets(files)
    check_widths(read_json(directory, CONFIG), results, all_shapes(directory).values())

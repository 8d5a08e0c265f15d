"""The checks before anything is sent: the folder is whole, fits itself, loads, and says nothing private."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_vbp.checkpoint.layout import CONFIG, INDEX, WEIGHTS
from hf_vbp.errors import CheckpointError
from hf_vbp.hub.files import PushFile, read_json, weight_names

_TOKEN = re.compile(rb"hf_[A-Za-z0-9]{30,}")
Shape = tuple[int, ...]


def tensor_shapes(path: Path) -> dict[str, Shape]:
    """Return name to shape of the tensors in a safetensors file, from its head, and check that it is whole.

    Raises:
        CheckpointError: The file was cut off or is not a safetensors file.
    """
    damaged = CheckpointError(f"{path} is damaged or was cut off: it does not hold what its head says. Save it again.")
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= min(path.stat().st_size, 100 << 20):
            raise damaged
        try:
            head = json.loads(stream.read(length))
        except ValueError as error:
            raise damaged from error
    head.pop("__metadata__", None)
    end = max((entry["data_offsets"][1] for entry in head.values()), default=0)
    if path.stat().st_size != 8 + length + end:
        raise damaged
    return {name: tuple(entry["shape"]) for name, entry in head.items()}


def all_shapes(directory: Path) -> dict[str, Shape]:
    """Return name to shape of all tensors of a checkpoint, sharded or not.

    Raises:
        CheckpointError: A shard lacks a tensor that the index says it has.
    """
    names = weight_names(directory)
    if names == [WEIGHTS]:
        return tensor_shapes(directory / WEIGHTS)
    shards = {name: tensor_shapes(directory / name) for name in names if name != INDEX}
    for tensor, shard in read_json(directory, INDEX)["weight_map"].items():
        if tensor not in shards[shard]:
            raise CheckpointError(f"{directory / shard} lacks the tensor {tensor} that {INDEX} puts there.")
    return {name: shape for shapes in shards.values() for name, shape in shapes.items()}


def check_widths(config: Mapping[str, Any], results: Mapping[str, Any], shapes: Iterable[Shape]) -> None:
    """Refuse a config whose widths are not those of the weights, or not those of the results.

    Names of modules differ between families and versions, so it is counted how many matrices have each width on
    either side; the load in a fresh process is the full proof.

    Raises:
        CheckpointError: They do not fit; the message says which.
    """
    measured = list(results["plan"]["widths"])
    record = config.get("vbp")
    recorded = list(record.get("widths", [])) if isinstance(record, Mapping) else None
    if recorded is None and "intermediate_size" in config and measured:
        recorded = [int(config["intermediate_size"])] * len(measured)
    if recorded is None:
        return
    if recorded != measured:
        raise CheckpointError(
            f"{CONFIG} records the widths {recorded}, but the results file {measured}: the two are not of one "
            "checkpoint. Save it again."
        )
    matrices = [shape for shape in shapes if len(shape) == 2]
    outputs, inputs = (Counter(shape[axis] for shape in matrices) for axis in (0, 1))
    for width, times in Counter(recorded).items():
        if width and min(outputs[width], inputs[width]) < times:
            raise CheckpointError(
                f"{CONFIG} records {times} MLPs of width {width}, but the weights hold fewer matrices of that width. "
                "The config does not belong to these weights. Save the checkpoint again."
            )


def check_secrets(files: Sequence[PushFile]) -> None:
    """Refuse files that hold something like a Hub token; the token itself is not shown.

    Raises:
        CheckpointError: A file holds one.
    """
    for file in files:
        if file.is_text and _TOKEN.search(file.read()):
            raise CheckpointError(f"{file.path} holds what looks like a Hub token; nothing was sent. Take it out.")


def private_paths(files: Sequence[PushFile], directory: Path) -> list[str]:
    """Return a remark for each text file that names the home directory or the folder of the checkpoint."""
    places = {str(Path.home()), str(directory.resolve())} - {"/"}
    found = []
    for file in files:
        if file.is_text:
            content = file.read()
            found += [f"{file.path} names a path of this machine." for place in places if place.encode() in content][
                :1
            ]
    return found


def check_checkpoint(directory: Path, files: Sequence[PushFile], results: Mapping[str, Any]) -> None:
    """Check what can be checked without loading the model.

    Raises:
        CheckpointError: The checkpoint is not whole, does not fit itself, or holds a token.
    """
    check_secrets(files)
    check_widths(read_json(directory, CONFIG), results, all_shapes(directory).values())

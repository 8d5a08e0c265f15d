"""The state of an interrupted pass on disk: written atomically, continued with the same result, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hf_vbp.calibration.processes import Processes
from hf_vbp.calibration.site_accumulator import SiteAccumulator
from hf_vbp.errors import StatisticsError, StatisticsMismatchError
from hf_vbp.files.atomic import remove_leftovers
from hf_vbp.statistics.fingerprints import ImageSketch
from hf_vbp.statistics.serialization import read_checked, write_atomically

FORMAT = "hf_vbp.statistics.state"


@dataclass
class Position:
    """The progress of one process.

    Attributes:
        batches: Number of finished batches of this process.
        images: Number of finished images of this process.
        order: Digest of the order so far, ``None`` at the start.
        sketch: Hashes of the finished images.
    """

    batches: int
    images: int
    order: str | None
    sketch: ImageSketch

    @classmethod
    def start(cls) -> Position:
        """Return the position at the start of a pass."""
        return cls(0, 0, None, ImageSketch())


class SavedState:
    """The state of one process, one file in a folder that all processes of the pass share.

    Args:
        directory: The folder; created when it does not exist.
        processes: This process and the number of all.
        identity: Values that must be the same for a pass to be continued, ready for JSON.
    """

    def __init__(self, directory: Path, processes: Processes, identity: Mapping[str, Any]) -> None:
        self.directory = directory
        self.identity = dict(identity)
        self.path = directory / f"process-{processes.index}-of-{processes.count}.safetensors"
        self.processes = processes

    def prepare(self) -> None:
        """Create the folder and check that it holds no state of another number of processes.

        Raises:
            StatisticsError: The folder cannot be created.
            StatisticsMismatchError: The folder holds the state of a pass with another number of processes.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StatisticsError(f"Cannot create {self.directory}: {error}. Choose another folder.") from error
        suffix = f"-of-{self.processes.count}.safetensors"
        others = [p.name for p in self.directory.glob("process-*.safetensors") if not p.name.endswith(suffix)]
        if others:
            raise StatisticsMismatchError(
                f"processes differs: {self.directory} holds {others[0]}, but this pass has {self.processes.count}. "
                "Start the same number as before, or delete the folder to start over."
            )

    def load(self, accumulators: Sequence[SiteAccumulator]) -> Position:
        """Restore ``accumulators`` from the file and return its position; without a file, the start.

        Raises:
            StatisticsError: The file is damaged.
            StatisticsMismatchError: The state is that of another pass; names the difference.
        """
        if not self.path.exists():
            return Position.start()
        description, tensors = read_checked(self.path, FORMAT)
        saved = description["identity"]
        for key, value in self.identity.items():
            if saved.get(key) != value:
                raise StatisticsMismatchError(
                    f"{key} differs: the pass that was interrupted in {self.directory} had {saved.get(key)!r}, this "
                    f"one has {value!r}. Use the same arguments, or delete the folder to start over."
                )
        for accumulator in accumulators:
            prefix = f"{accumulator.site.index}."
            mine = {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
            accumulator.load_state(mine)
        position = description["position"]
        sketch = ImageSketch(position["sketch"])
        return Position(position["batches"], position["images"], position["order"], sketch)

    def save(self, accumulators: Sequence[SiteAccumulator], position: Position) -> None:
        """Replace the file by the current state; a kill at any time leaves either the old or the new one.

        Raises:
            StatisticsError: The disk is full or the folder does not exist any more.
        """
        tensors: dict[str, torch.Tensor] = {}
        for accumulator in accumulators:
            state = accumulator.state()
            tensors.update({f"{accumulator.site.index}.{key}": value for key, value in state.items()})
        place = {
            "batches": position.batches,
            "images": position.images,
            "order": position.order,
            "sketch": position.sketch.hashes(),
        }
        write_atomically(tensors, {"identity": self.identity, "position": place}, self.path, FORMAT)

    def discard(self) -> None:
        """Delete the state of this process; the last process also deletes the folder."""
        self.path.unlink(missing_ok=True)
        remove_leftovers(self.path, self.directory)
        # Every process does this; the last one finds the folder empty, or already deleted.
        with suppress(OSError):
            self.directory.rmdir()

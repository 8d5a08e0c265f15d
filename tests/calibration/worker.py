"""The jobs of tests that run in other processes: ``python worker.py JOBS.json``, alone or under a launcher.

A job has a name, the number of images, the modes (how the data are given), the requirements and the options of the
pass, and the entry of the zoo for another model than a tiny ViT; its results are written to the folder of the file.
With ``kill_after``, a process kills itself by SIGKILL after so many batches.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset

sys.path.insert(0, str(Path(__file__).parents[2]))

from hf_vbp.calibration.collect import collect_statistics
from hf_vbp.config.requirements import Requirements
from hf_vbp.data.batches import make_loader
from hf_vbp.errors import HfVbpError
from tests.calibration.helpers import images, in_batches
from tests.conftest import make_model
from tests.families.running import model_of


class Listed(Dataset):  # type: ignore[type-arg]
    def __init__(self, values: torch.Tensor) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.values[index]}


class Streamed(IterableDataset):  # type: ignore[type-arg]
    def __init__(self, values: torch.Tensor) -> None:
        self.values = values

    def __iter__(self) -> Any:
        return iter(Listed(self.values)[index] for index in range(len(self.values)))


class SeveralShapes(Listed):
    """Images of which two of five are half as wide."""

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.values[index][..., :16] if index % 5 in (1, 2) else self.values[index]}


class StreamedShapes(Streamed):
    def __iter__(self) -> Any:
        return iter(SeveralShapes(self.values)[index] for index in range(len(self.values)))


def prepared(loader: Any, **settings: Any) -> Any:
    AcceleratorState._reset_state()
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(**settings))
    return accelerator.prepare(loader)


def data(mode: str, values: torch.Tensor) -> Any:
    """Return a loader of one kind over ``values``, in batches of 6 (12 where a batch is split)."""
    plain, stream = DataLoader(Listed(values), batch_size=6), DataLoader(Streamed(values), batch_size=6)
    state = PartialState(cpu=True)
    if mode == "distributed_sampler":
        sampler: Any = DistributedSampler(Listed(values), state.num_processes, state.process_index, shuffle=False)
        return DataLoader(Listed(values), batch_size=6, sampler=sampler)
    if mode == "uneven_batches":
        sizes = [1, 9, 2, 11, 4, 1, 1]
        rest = len(values) - sum(sizes)
        return [{"pixel_values": part} for part in values.split([*sizes, rest])]
    if mode == "disagreeing":
        return in_batches(images(20, seed=state.process_index), 5)
    makers: dict[str, Any] = {
        "plain": lambda: plain,
        "shuffled": lambda: DataLoader(Listed(values), batch_size=6, shuffle=True),
        "workers": lambda: DataLoader(Listed(values), batch_size=6, num_workers=2),
        "list": lambda: in_batches(values, 6),
        "stream": lambda: stream,
        "prepared": lambda: prepared(plain),
        "prepared_uneven": lambda: prepared(plain, even_batches=False),
        "prepared_split": lambda: prepared(DataLoader(Listed(values), batch_size=12), split_batches=True),
        "shapes": lambda: make_loader(SeveralShapes(values), 6, 2),
        "shapes_split": lambda: prepared(make_loader(SeveralShapes(values), 12, 0), split_batches=True),
        "shapes_stream_prepared": lambda: prepared(make_loader(StreamedShapes(values), 6, 0), dispatch_batches=False),
        "dispatched": lambda: prepared(plain, dispatch_batches=True),
        "stream_prepared": lambda: prepared(stream, dispatch_batches=False),
        "stream_dispatched": lambda: prepared(stream, dispatch_batches=True),
        "stream_dispatched_split": lambda: prepared(
            DataLoader(Streamed(values), batch_size=12), dispatch_batches=True, split_batches=True
        ),
    }
    return makers[mode]()


def run(job: dict[str, Any], mode: str, folder: Path) -> None:
    """Run one pass, and write the statistics or the error to ``folder``."""
    values = images(job["images"])
    if "bad_image" in job:
        values[job["bad_image"], 0, 0, 0] = float("nan")
    model = model_of(job["zoo"]) if "zoo" in job else make_model()
    torch.manual_seed(5)
    loader = data(mode, values)
    rank = PartialState(cpu=True).process_index
    batches = 0

    def progress(done: int, total: int | None) -> None:
        nonlocal batches
        batches += 1
        if batches == job.get("kill_after") and rank == job.get("kill_process", rank):
            os.kill(os.getpid(), signal.SIGKILL)

    options = {**job["options"], "config": Requirements(**job["requires"])}
    if "store" in options:
        options["store"] = folder / options["store"]
    output = folder / f"{job['name']}-{mode}-{rank}.safetensors"
    try:
        collect_statistics(model, loader, progress=progress, **options).save(output)
    except HfVbpError as error:
        output.with_suffix(".error").write_text(f"{type(error).__name__}: {error}")


def main() -> None:
    torch.set_num_threads(1)
    description = Path(sys.argv[1])
    for job in json.loads(description.read_text()):
        for mode in job["modes"]:
            run(job, mode, description.parent)
    PartialState(cpu=True).destroy_process_group()
    # Everything is written; gloo's threads sometimes abort an interpreter that is shutting down.
    os._exit(0)


if __name__ == "__main__":
    main()

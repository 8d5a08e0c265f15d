"""What the tests run in processes of their own: ``python worker.py JOB.json``, alone or under a launcher.

The job names the folder for the results, the modes (how the data are given), and the options of the pass. A
process may be told to kill itself: ``kill_after`` batches, by SIGKILL, as an operating system would.
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

from hf_vbp.errors import HfVbpError
from hf_vbp.statistics import collect_statistics
from tests.conftest import make_model
from tests.statistics.helpers import images, in_batches


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
        "dispatched": lambda: prepared(plain, dispatch_batches=True),
        "stream_prepared": lambda: prepared(stream, dispatch_batches=False),
        "stream_dispatched": lambda: prepared(stream, dispatch_batches=True),
        "stream_dispatched_split": lambda: prepared(
            DataLoader(Streamed(values), batch_size=12), dispatch_batches=True, split_batches=True
        ),
    }
    return makers[mode]()


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    values = images(job["images"])
    if "bad_image" in job:
        values[job["bad_image"], 0, 0, 0] = float("nan")
    model = make_model()
    for mode in job["modes"]:
        torch.manual_seed(5)
        loader = data(mode, values)
        rank = PartialState(cpu=True).process_index if PartialState._shared_state else 0
        done = 0

        def progress(images: int, total: int | None, rank: int = rank) -> None:
            nonlocal done
            done += 1
            if done == job.get("kill_after") and rank == job.get("kill_process", rank):
                os.kill(os.getpid(), signal.SIGKILL)

        output = Path(job["folder"]) / f"{mode}-{rank}"
        try:
            statistics = collect_statistics(model, loader, progress=progress, **job["options"])
        except HfVbpError as error:
            output.with_suffix(".error").write_text(f"{type(error).__name__}: {error}")
        else:
            statistics.save(output.with_suffix(".safetensors"))
    if PartialState._shared_state:
        PartialState().destroy_process_group()


if __name__ == "__main__":
    main()

"""The choice of the feed that fits a data loader."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from accelerate.data_loader import DataLoaderDispatcher, DataLoaderShard, IterableDatasetShard
from torch.utils.data import DataLoader, IterableDataset

from hf_vbp.calibration.feed import Feed, loader_settings
from hf_vbp.calibration.feeds import DispatchedFeed, OwnShardFeed, ReadingFeed
from hf_vbp.calibration.map_style_feeds import open_map_style_feed
from hf_vbp.calibration.processes import Processes
from hf_vbp.errors import ConfigurationError
from hf_vbp.inputs.mixed_batch import ImageLoader


def open_feed(dataloader: Any, processes: Processes, limit: int | None) -> Feed:
    """Return the feed that fits ``dataloader``.

    Args:
        dataloader: A torch ``DataLoader``, prepared by Accelerate or not, over a map-style or an iterable data
            set; or any other iterable of dicts with ``pixel_values``, the same in every process.
        processes: The processes that share the pass.
        limit: Number of images to take of the whole set.

    Raises:
        ConfigurationError: The loader cannot be iterated, or was prepared in a way that hides which images it
            repeats.
    """
    if not isinstance(dataloader, Iterable):
        raise ConfigurationError(
            f"Expected a data loader or another iterable of dicts with pixel_values, got {type(dataloader).__name__}."
        )
    if not isinstance(dataloader, DataLoader):
        return ReadingFeed(dataloader, processes, limit)
    if processes.several and isinstance(dataloader, DataLoaderDispatcher):
        return DispatchedFeed(dataloader, processes, limit)
    if isinstance(dataloader.dataset, IterableDatasetShard):
        return ReadingFeed(_unsharded(dataloader), processes, limit)
    if isinstance(dataloader, DataLoaderDispatcher) and _streams_from_the_start(dataloader):
        # One process has nothing to dispatch, and the dispatcher takes no batches of several shapes.
        return ReadingFeed(_as_loader(dataloader, dataloader.dataset, dataloader), processes, limit)
    if isinstance(dataloader.dataset, IterableDataset):
        own_shard = processes.several and isinstance(dataloader, DataLoaderShard)
        return (OwnShardFeed if own_shard else ReadingFeed)(dataloader, processes, limit)
    if type(dataloader) in (DataLoader, ImageLoader) or isinstance(dataloader, DataLoaderShard):
        return open_map_style_feed(dataloader, processes, limit) or ReadingFeed(dataloader, processes, limit)
    if processes.several and hasattr(dataloader, "gradient_state"):
        raise ConfigurationError(
            f"Accelerate made a {type(dataloader).__name__} that hides which images it repeats. Pass the data loader "
            "from before accelerator.prepare."
        )
    return ReadingFeed(dataloader, processes, limit)


def _unsharded(dataloader: DataLoader[Any]) -> DataLoader[Any]:
    shard: Any = dataloader.dataset
    return _as_loader(dataloader, shard.dataset, shard)


def _as_loader(dataloader: DataLoader[Any], dataset: Any, batches: Any) -> DataLoader[Any]:
    settings = loader_settings(dataloader)
    return DataLoader(dataset, batch_size=batches.batch_size, drop_last=batches.drop_last, **settings)


def _streams_from_the_start(dataloader: DataLoaderDispatcher) -> bool:
    return isinstance(dataloader.dataset, IterableDataset) and not dataloader.skip_batches

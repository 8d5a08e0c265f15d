"""The passes over the images: one for all sites, or one for each group of sites where memory is limited."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hf_vbp._progress import Progress
from hf_vbp.adapters.base import MLPSite
from hf_vbp.adapters.prepared import PreparedModel
from hf_vbp.calibration.batch_moments import Workspace
from hf_vbp.calibration.feed import Feed, LocalBatch
from hf_vbp.calibration.hooked_model import HookedModel
from hf_vbp.calibration.processes import Processes
from hf_vbp.calibration.resume import Position, SavedState
from hf_vbp.calibration.site_accumulator import SiteAccumulator
from hf_vbp.calibration.source import Source
from hf_vbp.config.requirements import Requirements
from hf_vbp.errors import DataError, StatisticsError
from hf_vbp.output_distance import OutputDistance
from hf_vbp.statistics.activation_statistics import ActivationStatistics
from hf_vbp.statistics.site_statistics import SiteStatistics
from hf_vbp.statistics.stored_sites import SiteStore

# Fingerprints that an interrupted pass and its continuation must share.
IDENTITY = ("weights", "dtype", "moments", "output_metric", "token_weights", "data")


def statistics_bytes(sites: Sequence[MLPSite], requires: Requirements) -> int:
    """Return the bytes of the sums of a pass in each process, for any number of images.

    Args:
        sites: The MLP sites of the model.
        requires: The statistics that are gathered.
    """
    matrices = requires.covariances + (requires.covariances and requires.halves) + requires.token_weights
    vectors = 4 + 2 * requires.token_weights
    doubles = sum(
        vectors * site.intermediate_size
        + matrices * site.intermediate_size**2
        + requires.output_metric * site.hidden_size**2
        for site in sites
    )
    return 8 * doubles


def groups_within(sites: Sequence[MLPSite], requires: Requirements, max_bytes: int | None) -> list[Sequence[MLPSite]]:
    """Return the sites in consecutive groups whose sums fit into a limit.

    Args:
        sites: Sites of which each alone fits.
        requires: The statistics that are gathered.
        max_bytes: The limit; None makes one group.
    """
    groups: list[list[MLPSite]] = []
    for site in sites:
        if groups and (max_bytes is None or statistics_bytes([*groups[-1], site], requires) <= max_bytes):
            groups[-1].append(site)
        else:
            groups.append([site])
    return list(groups)


@dataclass(frozen=True)
class Images:
    """The images of every pass, and what is drawn for them.

    Attributes:
        source: The images, and the processes that share them.
        limit: Number of images to take.
        seed: Seed of the labels or the noise for the output metric; None gathers none.
        distance: The distance of outputs whose cotangents are drawn.
    """

    source: Source
    limit: int | None
    seed: int | None
    distance: OutputDistance | None


@dataclass
class Gathering:
    """Gathers the statistics of one model.

    Attributes:
        prepared: The model.
        requires: The statistics.
        images: The images.
        fingerprints: Those that are known before the first pass.
        resume: The folder for the state of a pass, and the number of batches between two writes; None keeps no state.
        progress: Receives the number of finished images and, where it is known, of all.
    """

    prepared: PreparedModel
    requires: Requirements
    images: Images
    fingerprints: Mapping[str, Any]
    resume: tuple[Path, int] | None
    progress: Progress | None
    _state: SavedState | None = field(default=None, init=False)

    def in_one_pass(self) -> ActivationStatistics:
        """Return the statistics after one pass, in memory."""
        accumulators, found = self._run(self.prepared.sites, {}, self.progress)
        sites = tuple(self._merged(accumulators))
        return ActivationStatistics(sites, {**self.fingerprints, **found, "tokens": sites[0].moments.count})

    def in_groups(self, folder: Path, max_bytes: int | None) -> ActivationStatistics:
        """Return the statistics after one pass for each group of sites, in a folder.

        Raises:
            StatisticsError: The folder cannot be used, or the passes read different images.
        """
        processes, everything = self.images.source.processes, self.prepared.sites
        store = SiteStore(folder, self._identity(), self._more(), [site.name for site in everything])
        with processes.together():
            finished = store.open()
        found = next(iter(finished.values()), None)
        groups = groups_within(everything, self.requires, max_bytes)
        for number, group in enumerate(groups):
            if all(site.index in finished for site in group):
                continue
            span = {"sites": [group[0].index, group[-1].index]}
            accumulators, read = self._run(group, span, _part_of(self.progress, number, len(groups)))
            found = found or read
            with processes.together():
                _check_same_images(found, read)
            for site in self._merged(accumulators):
                with processes.together():
                    if not processes.index:
                        store.add(site, {**self.fingerprints, **read})
            self.discard_state()
        with processes.together():
            sites = store.close(write=not processes.index)
            tokens = sites[0].moments.count
        images = {key: (found or {})[key] for key in ("images", "image_sketch")}
        return ActivationStatistics(sites, {**self.fingerprints, **images, "tokens": tokens})

    def discard_state(self) -> None:
        """Delete the state of the last pass."""
        if self._state is not None:
            self._state.discard()
        self._state = None

    def _identity(self) -> dict[str, Any]:
        return {key: self.fingerprints[key] for key in IDENTITY}

    def _more(self) -> dict[str, Any]:
        return {"halves": self.requires.halves, "limit": self.images.limit}

    def _run(
        self, sites: Sequence[MLPSite], span: Mapping[str, Any], progress: Progress | None
    ) -> tuple[list[SiteAccumulator], dict[str, Any]]:
        """Run one pass; return the sums of this process, and the number and hashes of the images of all."""
        images, processes = self.images, self.images.source.processes
        workspace, every = Workspace(), 1
        accumulators = [SiteAccumulator(site, workspace, self.requires) for site in sites]
        if self.resume is not None:
            folder, every = self.resume
            # The layout of the packed sums is part of the state, so a state with another layout is refused.
            identity = {**self._identity(), **self._more(), **span, "layout": "packed symmetric by depth"}
            self._state = SavedState(folder, processes, identity)
        hooked = HookedModel(self.prepared.model, accumulators, images.seed, images.distance)
        one = _Pass(hooked, accumulators, processes, self._state, every, progress)
        position = one.run(lambda: images.source.open(images.limit))
        number, sketch = sum(processes.gather(position.images)), position.sketch
        if not number:
            raise DataError("The data gave no images; statistics need at least one.")
        for hashes in processes.gather(sketch.hashes()):
            sketch.update(hashes)
        return accumulators, {"images": number, "image_sketch": sketch.hashes()}

    def _merged(self, accumulators: list[SiteAccumulator]) -> Iterator[SiteStatistics]:
        processes = self.images.source.processes
        while accumulators:
            with processes.together():
                # Freed one by one, while the full matrices of the sites are made.
                site = accumulators.pop(0).finish()
            site = processes.merge_site(site)
            if not site.moments.count:
                raise StatisticsError(
                    f"site {site.name} was never used by the model: no activations reached it. Check that the forward "
                    "pass of the model runs this MLP."
                )
            yield _without_empty_halves(site)


@dataclass
class _Pass:
    """One pass over the images of this process."""

    model: HookedModel
    accumulators: Sequence[SiteAccumulator]
    processes: Processes
    state: SavedState | None
    resume_every: int
    progress: Progress | None

    def run(self, open_the_feed: Callable[[], Feed]) -> Position:
        """Run the rest of the pass and return the final position of this process.

        A failure in one process is raised in all of them.
        """
        position = Position.start()
        with self.processes.together():
            feed = open_the_feed()
            if self.state is not None:
                self.state.prepare()
                position = self.state.load(self.accumulators)
        done = 0

        def work(batch: LocalBatch) -> None:
            nonlocal done
            if batch.hashes:
                self.model.run(batch.inputs, batch.indices)
                done = max(done, batch.indices[-1] + 1)
            # A pass continues after a whole batch of the loader.
            position.batches += batch.last
            position.images += len(batch.hashes)
            position.order = batch.order
            position.sketch.update(batch.hashes)
            if self.state is not None and batch.last and position.batches % self.resume_every == 0:
                self.state.save(self.accumulators, position)
            if self.progress is not None:
                self.progress(done, feed.total)

        with self.model:
            feed.walk(work, skip=position.batches, order=position.order)
        return position


def _part_of(progress: Progress | None, number: int, passes: int) -> Progress | None:
    """Return the progress of one of several passes, as a part of all."""
    if progress is None:
        return None
    receive = progress
    return lambda done, total: receive(done + number * (total or 0), None if total is None else passes * total)


def _check_same_images(expected: Mapping[str, Any], read: Mapping[str, Any]) -> None:
    for key, what in (("images", "numbers of images"), ("image_sketch", "images")):
        if expected[key] != read[key]:
            raise StatisticsError(
                f"The passes over the data read different {what}. Each group of sites needs the same images: use no "
                "random transform, and a shuffle only with a seed that is the same in every pass."
            )


def _without_empty_halves(site: SiteStatistics) -> SiteStatistics:
    if site.halves is not None and all(half.count > 1 for half in site.halves):
        return site
    return replace(site, halves=None)

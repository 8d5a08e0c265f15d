"""The pass: images through the model, statistics out."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from hf_vbp.adapters import MLPSite, check_finite_weights, find_sites
from hf_vbp.errors import ConfigurationError, DataError, HfVbpError, StatisticsError
from hf_vbp.precision import own_precision
from hf_vbp.statistics.accumulator import Depth, SiteAccumulator
from hf_vbp.statistics.feeding import Feed, open_feed
from hf_vbp.statistics.fingerprints import model_identity, package_versions, sites_fingerprint
from hf_vbp.statistics.kernels import Workspace
from hf_vbp.statistics.passes import ListeningModel
from hf_vbp.statistics.processes import Processes
from hf_vbp.statistics.resume import Position, SavedState
from hf_vbp.statistics.store import ActivationStatistics, SiteStatistics

logger = logging.getLogger(__name__)

Progress = Callable[[int, "int | None"], None]


def collect_statistics(
    model: nn.Module,
    dataloader: Iterable[Mapping[str, Any]],
    *,
    moments: Literal["diagonal", "full"] = "diagonal",
    output_metric: bool = False,
    half_comoments: bool = True,
    token_weights: bool = False,
    seed: int = 0,
    max_images: int | None = None,
    max_bytes: int | None = None,
    accelerator: Any | None = None,
    resume: str | Path | None = None,
    resume_every: int = 50,
    progress: Progress | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> ActivationStatistics:
    """Gather the statistics of every MLP site over every token of every image, in one pass.

    Started by ``accelerate launch``, the processes share the images, each image goes to one of them exactly
    once, and all return the same statistics, whose sums differ from those of one process by float64 rounding
    only. Memory does not grow with the number of images.

    The formula: each batch gives count, mean and centred second moments about its own mean, from float32
    arithmetic on values shifted by an estimate of that mean; batches, halves and processes are merged in
    float64 by the pairwise formula of Chan, Golub and LeVeque, in which nothing cancels. The variance of a
    neuron therefore agrees with a float64 two-pass reference on the same activations to about 3e-7 relative,
    whatever its ratio of mean to standard deviation, and constants have variance exactly 0. (The sum of squares
    less the square of the sum, in float32, loses ``(mean / standard deviation)^2 * 2**-24``.) Co-moments agree
    to the same, relative to the two standard deviations.

    Args:
        model: A transformers vision model on its device. It runs in eval mode, in its own dtype (also inside
            autocast and after ``accelerator.prepare``) and without gradients, and is left as it was.
        dataloader: Batches with ``pixel_values`` ``(images, channels, height, width)``: a torch ``DataLoader``,
            whether prepared by Accelerate or not, or any iterable of dicts that is the same in every process.
        moments: ``"diagonal"`` for means and variances; ``"full"`` for co-moments besides, ``hidden^2`` doubles
            a site, needed by least squares.
        output_metric: Also gather ``G = E[g g^T]`` at each site, by one backward pass a batch; see
            :class:`SiteStatistics`.
        half_comoments: With ``moments="full"``, also keep the co-moments of one half of the images, as many doubles
            again; a regularisation chosen from the data needs them.
        token_weights: Also gather co-moments in which tokens count by the norm of their gradient, as many doubles
            again; least squares from them is better. Needs ``moments="full"`` and ``output_metric``, and the
            activations of all sites in memory until the backward pass of each batch.
        seed: Seed of the labels drawn for the output metric; image by image, so that neither batches nor
            processes matter.
        max_images: Stop after so many images of the whole set.
        max_bytes: Refuse to start when the sums would take more memory than this, in each process.
        accelerator: The ``Accelerator`` to share the pass by; found from the environment when not given.
        resume: A folder for the state of the pass. When it holds one, the pass goes on from there and ends with
            the same bits; when the pass ends, the folder is deleted.
        resume_every: Batches between two writes of the state.
        progress: Called with the number of images done and, where it is known, of all.
        provenance: What the images are (data set, revision, split, processor, transform, seed of the shuffle),
            ready for JSON; kept among the fingerprints under ``data``.

    Returns:
        The statistics, the same in every process.

    Raises:
        ConfigurationError: An argument cannot be meant, or the sums would not fit into ``max_bytes``.
        UnsupportedModelError: The model has no MLP sites.
        NonFiniteError: Weights, activations or gradients hold NaN or infinity; names the site and the image.
        DataError: There are no images, or a batch holds none.
        StatisticsError: The state cannot be written or read, or the processes read different data.
        StatisticsMismatchError: The folder of ``resume`` holds the state of another pass.

    Example:
        >>> statistics = collect_statistics(model, loader, moments="full")  # doctest: +SKIP
        >>> statistics.save("statistics.safetensors")  # doctest: +SKIP
    """
    depth = _depth(moments, output_metric, half_comoments, token_weights)
    _check_arguments(max_images, resume_every)
    sites = tuple(find_sites(model))
    check_finite_weights(sites)
    size = depth_bytes(sites, depth)
    _check_size(size, max_bytes, sites, moments)
    processes = Processes.of(accelerator)
    workspace = Workspace()
    accumulators = [SiteAccumulator(site, workspace, depth) for site in sites]
    fingerprints = _fingerprints(model, sites, moments, seed if output_metric else None, provenance)
    fingerprints["token_weights"] = "gradient" if depth.weighted else None
    keys = ("weights", "dtype", "moments", "output_metric", "token_weights", "data")
    identity = {key: fingerprints[key] for key in keys}
    state = None
    if resume is not None:
        # The order of the packed sums is part of the state: another one must not be read as this.
        limits = {"half_comoments": depth.halves, "max_images": max_images, "layout": "lower half by depth"}
        state = SavedState(Path(resume), processes, {**identity, **limits})
    listening = ListeningModel(model, accumulators, seed if output_metric else None)
    task = _Pass(listening, accumulators, processes, state, resume_every, progress)
    with own_precision(model):
        position = task.run(lambda: open_feed(dataloader, processes, max_images))
    statistics = _merged(accumulators, position, processes, fingerprints)
    if state is not None:
        state.discard()
    return statistics


def statistics_bytes(
    sites: Sequence[MLPSite],
    *,
    moments: str = "diagonal",
    output_metric: bool = False,
    half_comoments: bool = True,
    token_weights: bool = False,
) -> int:
    """Return the bytes that the sums of a pass take in each process, whatever the number of images.

    The arguments are those of :func:`collect_statistics`.
    """
    return depth_bytes(sites, _depth(moments, output_metric, half_comoments, token_weights))


def depth_bytes(sites: Sequence[MLPSite], depth: Depth) -> int:
    """Return the bytes of the sums of a pass of this depth; see :func:`statistics_bytes`."""
    matrices = depth.full + depth.halves + depth.weighted
    vectors = 4 + 2 * depth.weighted
    doubles = sum(
        vectors * site.intermediate_size + matrices * site.intermediate_size**2 + depth.metric * site.hidden_size**2
        for site in sites
    )
    return 8 * doubles


@dataclass
class _Pass:
    """One walk over the images of this process."""

    model: ListeningModel
    accumulators: Sequence[SiteAccumulator]
    processes: Processes
    state: SavedState | None
    resume_every: int
    progress: Progress | None

    def run(self, open_the_feed: Callable[[], Feed]) -> Position:
        """Do what is left of the pass, and return how far this process came.

        A failure in one process is raised in all of them, before any waits for what will not come.
        """
        feed, position, failure = None, Position.start(), None
        try:
            feed = open_the_feed()
            if self.state is not None:
                self.state.prepare()
                position = self.state.load(self.accumulators)
        except HfVbpError as error:
            failure = error
        self.processes.raise_together(failure)
        if feed is not None:
            try:
                self._walk(feed, position)
            except HfVbpError as error:
                failure = error
            self.processes.raise_together(failure)
            self._check_same_order(feed)
        return position

    def _walk(self, feed: Feed, position: Position) -> None:
        failure: HfVbpError | None = None
        done = 0
        with self.model:
            for batch in feed.batches(position.batches, position.order):
                if failure is not None:
                    continue
                try:
                    if batch.hashes:
                        self.model.run(batch.pixel_values, batch.indices)
                        done = max(done, batch.indices[-1] + 1)
                except HfVbpError as error:
                    failure = error
                    # The others wait for this process at every batch: walk on with them, without the work.
                    if not feed.lockstep:
                        break
                    continue
                position.batches += 1
                position.images += len(batch.hashes)
                position.order = batch.order
                position.sketch.update(batch.hashes)
                self._save(position)
                # The images are not needed while the next ones are loaded.
                del batch
                if self.progress is not None:
                    self.progress(done, feed.total)
        if failure is not None:
            raise failure

    def _save(self, position: Position) -> None:
        if self.state is not None and position.batches % self.resume_every == 0:
            self.state.save(self.accumulators, position)

    def _check_same_order(self, feed: Feed) -> None:
        orders = set(self.processes.gather(feed.final_order)) if feed.shared_order else set()
        if len(orders) > 1:
            raise StatisticsError(
                "the processes read different images or another order of them, so that some may be counted twice; "
                "give every process the same data, and seed the shuffle"
            )


def _merged(
    accumulators: Sequence[SiteAccumulator], position: Position, processes: Processes, fingerprints: dict[str, Any]
) -> ActivationStatistics:
    images = sum(processes.gather(position.images))
    if not images:
        raise DataError("the data loader gave no images; statistics need at least one")
    sites, failure = [], None
    for accumulator in accumulators:
        try:
            site = accumulator.finish()
        except StatisticsError as error:
            failure = error
        processes.raise_together(failure)
        site = processes.merge_site(site)
        if not site.moments.count:
            raise StatisticsError(f"site {site.name} was never used by the model: no activations reached it")
        sites.append(_without_empty_halves(site))
    sketch = position.sketch
    for hashes in processes.gather(position.sketch.hashes()):
        sketch.update(hashes)
    fingerprints.update(images=images, tokens=sites[0].moments.count, image_sketch=sketch.hashes())
    return ActivationStatistics(tuple(sites), fingerprints)


def _without_empty_halves(site: SiteStatistics) -> SiteStatistics:
    if site.halves is not None and all(half.count > 1 for half in site.halves):
        return site
    return replace(site, halves=None)


def _fingerprints(
    model: nn.Module,
    sites: Sequence[MLPSite],
    moments: str,
    seed: int | None,
    provenance: Mapping[str, Any] | None,
) -> dict[str, Any]:
    identity = model_identity(model)
    try:
        data = json.loads(json.dumps(dict(provenance or {})))
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"provenance must be ready for JSON: {error}") from error
    return {
        "weights": sites_fingerprint(sites),
        "dtype": identity.pop("dtype"),
        "model": identity,
        "data": data,
        "moments": moments,
        "output_metric": None if seed is None else {"seed": seed},
        "versions": package_versions(),
    }


def _depth(moments: str, output_metric: bool, half_comoments: bool, token_weights: bool) -> Depth:
    if moments not in ("diagonal", "full"):
        raise ConfigurationError(f'moments must be "diagonal" or "full", not {moments!r}')
    full = moments == "full"
    if token_weights and not (full and output_metric):
        raise ConfigurationError(
            'token_weights=True weighs co-moments by gradients: it needs moments="full" and output_metric=True'
        )
    return Depth(full, full and half_comoments, output_metric, token_weights)


def _check_arguments(max_images: int | None, resume_every: int) -> None:
    if max_images is not None and max_images < 1:
        raise ConfigurationError(f"max_images must be at least 1, not {max_images}")
    if resume_every < 1:
        raise ConfigurationError(f"resume_every must be at least 1 batch, not {resume_every}")


def _check_size(size: int, limit: int | None, sites: Sequence[MLPSite], moments: str) -> None:
    logger.info("the sums of %d sites take %.1f MiB (%s moments)", len(sites), size / 2**20, moments)
    if limit is not None and size > limit:
        raise ConfigurationError(
            f'moments="{moments}" needs {size:,} bytes for {len(sites)} sites of {sites[0].intermediate_size} hidden '
            f"neurons, and max_bytes is {limit:,}; raise the limit"
            + (', or use moments="diagonal"' if moments == "full" else "")
        )

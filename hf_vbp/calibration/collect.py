"""The pass: images through the model, statistics out."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from hf_vbp._progress import Progress
from hf_vbp.adapters.base import MLPSite
from hf_vbp.adapters.prepared import PreparedModel, prepare
from hf_vbp.calibration.batch_moments import Workspace
from hf_vbp.calibration.feeds import Feed, open_feed
from hf_vbp.calibration.hooked_model import HookedModel
from hf_vbp.calibration.processes import Processes
from hf_vbp.calibration.resume import Position, SavedState
from hf_vbp.calibration.saliency import with_saliency
from hf_vbp.calibration.site_accumulator import Depth, SiteAccumulator
from hf_vbp.config.requirements import Requirements
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.errors import ConfigurationError, DataError, HfVbpError, StatisticsError
from hf_vbp.modeling.precision import outside_inference_mode, own_precision
from hf_vbp.results.versions import versions
from hf_vbp.statistics.activation_statistics import ActivationStatistics
from hf_vbp.statistics.site_statistics import SiteStatistics

logger = logging.getLogger(__name__)


@outside_inference_mode
def collect_statistics(
    model: nn.Module | PreparedModel,
    data: Iterable[Mapping[str, Any]],
    config: VBPConfig | Requirements | None = None,
    *,
    limit: int | None = None,
    seed: int = 0,
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

    Each batch gives count, mean and centered second moments about its own mean, from float32 arithmetic on values
    shifted by an estimate of that mean; batches, halves and processes are merged in float64 by the pairwise formula
    of Chan, Golub and LeVeque, in which nothing cancels. The variance of a neuron therefore agrees with a float64
    two-pass reference on the same activations to about 3e-7 relative, for any ratio of mean to standard deviation,
    and constants have variance exactly 0. (The sum of squares minus the square of the sum, in float32, loses
    ``(mean / standard deviation)^2 * 2**-24``.) Co-moments agree to between 1e-6 and 5e-6, relative to the two
    standard deviations.

    Args:
        model: A transformers vision model on its device. It runs in eval mode, in its own dtype (also
            inside autocast and after ``accelerator.prepare``) and without gradients; its mode is restored afterwards.
        data: Batches with ``pixel_values`` ``(images, channels, height, width)``: what
            :func:`hf_vbp.load_images` returned, a torch ``DataLoader``, whether prepared by Accelerate or not, or any
            iterable of dicts that is the same in every process.
        config: Its criterion and compensation determine what is gathered; by default those of ``VBPConfig()``. A
            :class:`~hf_vbp.config.requirements.Requirements` names it directly. The budget is not used. What needs
            the gradients of a classifier (output metric, token weights) is gathered from classifiers only.
        limit: Stop after so many images of the whole set.
        seed: Seed of the labels drawn for the output metric; image by image, so that the result depends neither on
            batches nor on processes.
        max_bytes: Refuse to start when the sums would take more memory than this, in each process.
        accelerator: The ``Accelerator`` to share the pass by; found from the environment when not given.
        resume: A folder for the state of the pass. When it holds one, the pass continues from it and ends with
            the same bits; when the pass ends, the folder is deleted.
        resume_every: Batches between two writes of the state.
        progress: Receives the number of finished images and, where it is known, of all.
        provenance: Describes the images (data set, revision, split, processor, transform, seed of the shuffle),
            ready for JSON; kept among the fingerprints under ``data``. By default that of ``data``.

    Returns:
        The statistics, the same in every process.

    Raises:
        ConfigurationError: Invalid argument, or the sums would not fit into ``max_bytes``.
        UnsupportedModelError: The model has no MLP sites, or one whose structure is not what its adapter describes.
        NonFiniteError: Weights, activations or gradients hold NaN or infinity; names the site and the image.
        DataError: There are no images, or a batch holds none.
        StatisticsError: The state cannot be written or read, or the processes read different data.
        StatisticsMismatchError: The folder of ``resume`` holds the state of another pass.

    Example:
        >>> statistics = hf_vbp.collect_statistics(model, images, hf_vbp.VBPConfig())  # doctest: +SKIP
        >>> statistics.save("statistics.safetensors")  # doctest: +SKIP
    """
    _check_arguments(limit, resume_every)
    prepared = prepare(model)
    requires = requirements_for(prepared, config)
    loader, provenance = _source(data, provenance)
    depth = _depth(requires)
    size = depth_bytes(prepared.sites, depth)
    _check_size(size, max_bytes, prepared.sites, depth)
    processes = Processes.of(accelerator)
    workspace = Workspace()
    accumulators = [SiteAccumulator(site, workspace, depth) for site in prepared.sites]
    drawn = seed if depth.metric else None
    fingerprints = _fingerprints(prepared, depth, drawn, provenance)
    keys = ("weights", "dtype", "moments", "output_metric", "token_weights", "data")
    identity = {key: fingerprints[key] for key in keys}
    state = None
    if resume is not None:
        # The order of the packed sums is part of the state: another one must not be read as this.
        limits = {"half_comoments": depth.halves, "limit": limit, "layout": "lower half by depth"}
        state = SavedState(Path(resume), processes, {**identity, **limits})
    hooked = HookedModel(prepared.model, accumulators, drawn)
    task = _Pass(hooked, accumulators, processes, state, resume_every, progress)
    with own_precision(prepared.model):
        position = task.run(lambda: open_feed(loader, processes, limit))
    statistics = _merged(accumulators, position, processes, fingerprints)
    if state is not None:
        state.discard()
    if requires.saliency:
        statistics = with_saliency(prepared, statistics, loader, limit=limit, progress=progress)
    return statistics


def requirements_for(model: nn.Module | PreparedModel, config: VBPConfig | Requirements | None) -> Requirements:
    """Return what a pass over this model gathers for a configuration.

    Without a single-label classification head there are no labels to draw, so a :class:`VBPConfig` gathers neither
    the output metric nor token weights, and its criterion weighs all directions of the outputs equally.

    Args:
        model: The model.
        config: As for :func:`collect_statistics`.

    Raises:
        ConfigurationError: The criterion needs the loss of a single-label classifier, or ``Requirements`` name what
            only such a model has.
    """
    prepared = prepare(model)
    name = type(prepared.model).__name__
    if isinstance(config, Requirements):
        prepared.check_requirements("The saliency", config)
        if config.output_metric and prepared.not_single_label:
            raise ConfigurationError(
                f"The output metric needs a single-label classifier, and {name} is none: {prepared.not_single_label}. "
                "Gather the statistics without it (output_metric=False)."
            )
        return config
    chosen = config or VBPConfig()
    prepared.check_requirements(f"criterion {chosen.criterion!r}", chosen.make_criterion().requires)
    if "ForImageClassification" in name and prepared.not_single_label is None:
        return chosen.requires
    return replace(chosen.requires, output_metric=False, token_weights=False)


def statistics_bytes(sites: Sequence[MLPSite], requires: Requirements) -> int:
    """Return the bytes of the sums of a pass in each process, for any number of images.

    Args:
        sites: The MLP sites of the model.
        requires: What is gathered.
    """
    return depth_bytes(sites, _depth(requires))


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

    model: HookedModel
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


def _source(data: Any, provenance: Mapping[str, Any] | None) -> tuple[Any, dict[str, Any]]:
    # What load_images returns holds both; anything else is batches without a description.
    loader = getattr(data, "loader", data)
    described = getattr(data, "provenance", {}) if provenance is None else provenance
    try:
        return loader, json.loads(json.dumps(dict(described)))
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"provenance must be ready for JSON: {error}") from error


def _fingerprints(
    prepared: PreparedModel, depth: Depth, seed: int | None, provenance: Mapping[str, Any]
) -> dict[str, Any]:
    identity = dict(prepared.identity)
    return {
        "weights": prepared.fingerprint,
        "dtype": identity.pop("dtype"),
        "model": identity,
        "data": provenance,
        "moments": "full" if depth.full else "diagonal",
        "output_metric": None if seed is None else {"seed": seed},
        "token_weights": "gradient" if depth.weighted else None,
        "versions": versions(),
    }


def _depth(requires: Requirements) -> Depth:
    if requires.token_weights and not (requires.covariances and requires.output_metric):
        raise ConfigurationError(
            "token_weights=True weighs co-moments by gradients: it needs covariances=True and output_metric=True."
        )
    halves = requires.covariances and requires.halves
    return Depth(requires.covariances, halves, requires.output_metric, requires.token_weights)


def _check_arguments(limit: int | None, resume_every: int) -> None:
    for name, value in (("limit", limit), ("resume_every", resume_every)):
        if value is not None and (type(value) is not int or value < 1):
            raise ConfigurationError(f"{name} must be a whole number of at least 1, got {value!r}.")


def _check_size(size: int, limit: int | None, sites: Sequence[MLPSite], depth: Depth) -> None:
    kind = "covariances" if depth.full else "variances"
    logger.info("the sums of %d sites take %.1f MiB (%s)", len(sites), size / 2**20, kind)
    if limit is not None and size > limit:
        raise ConfigurationError(
            f"The {kind} of {len(sites)} sites of {sites[0].intermediate_size} hidden neurons need {size:,} bytes, "
            f"but max_bytes is {limit:,}. Raise the limit"
            + (", or use a criterion and a compensation without covariances." if depth.full else ".")
        )

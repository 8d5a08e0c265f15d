"""The pass over the images that gathers the statistics."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from hf_vbp._progress import Progress
from hf_vbp.adapters.base import MLPSite
from hf_vbp.adapters.prepared import PreparedModel, prepare_sites
from hf_vbp.calibration.cotangents import output_distance_of, with_bank
from hf_vbp.calibration.gathering import Gathering, Images, statistics_bytes
from hf_vbp.calibration.saliency import with_saliency
from hf_vbp.calibration.source import Source
from hf_vbp.config.requirements import Requirements
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.errors import ConfigurationError
from hf_vbp.modeling.precision import outside_inference_mode, own_precision
from hf_vbp.output_distance import OutputDistance
from hf_vbp.results.versions import versions
from hf_vbp.statistics.activation_statistics import ActivationStatistics

__all__ = ["collect_statistics", "requirements_for", "statistics_bytes"]

logger = logging.getLogger(__name__)


@outside_inference_mode
def collect_statistics(
    model: nn.Module | PreparedModel,
    data: Iterable[Mapping[str, Any]] | Source,
    config: VBPConfig | Requirements | None = None,
    *,
    limit: int | None = None,
    seed: int = 0,
    max_bytes: int | None = None,
    store: str | Path | None = None,
    accelerator: Any | None = None,
    resume: str | Path | None = None,
    resume_every: int = 50,
    progress: Progress | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> ActivationStatistics:
    """Gather the statistics of every MLP site over every token of every image, in one pass.

    Under ``accelerate launch`` the processes share the images: each image is processed by exactly one of them, and all
    return the same statistics, whose sums differ from those of one process by float64 rounding only. Memory does not
    grow with the number of images.

    Each batch gives count, mean and centered second moments about its own mean, from float32 arithmetic on values from
    which an estimate of that mean was subtracted. Batches, halves and processes are merged in float64 by the pairwise
    formula of Chan, Golub and LeVeque, in which nothing cancels. Compared with a float64 two-pass reference on the
    same activations, for any ratio of mean to standard deviation:

    - the variance of a neuron agrees to better than 1e-6 (relative), and constants have variance exactly 0. (The sum
      of squares minus the square of the sum, in float32, loses ``(mean / standard deviation)^2 * 2**-24``.)
    - co-moments agree to between 1e-6 and 5e-6, relative to the two standard deviations.

    Models in float64 are processed in float64 throughout, where both agree to float64 rounding.

    Args:
        model: A transformers vision model on its device. It runs in eval mode, in its own dtype (also
            inside autocast and after ``accelerator.prepare``) and without gradients; its mode is restored afterwards.
        data: Batches with ``pixel_values`` ``(images, channels, height, width)``, or whatever the model takes: the
            result of :func:`hf_vbp.load_images`, a torch ``DataLoader``, prepared by Accelerate or not, or any
            iterable of dicts that is the same in every process. The first image also verifies the structure of the
            model.
        config: Its criterion and compensation determine the statistics that are gathered; by default those of
            ``VBPConfig()``. A :class:`~hf_vbp.config.requirements.Requirements` names them directly. The budget is
            not used. With a configuration, the output metric and the token weights are gathered where the kind of the
            model's output is known.
        limit: Stop after this many images of the whole set.
        seed: Seed of the labels drawn for the output metric. Labels are drawn image by image, so that they depend
            neither on batches nor on processes.
        max_bytes: The memory that the sums may take in each process. Where those of all sites need more, the call is
            refused, unless ``store`` is given.
        store: An empty folder for the statistics, one file per site. Sites are gathered in groups whose sums fit into
            ``max_bytes``, with one pass over ``data`` for each group, and the result reads each site from the folder
            when it is used. A killed call continues after the last finished group. Needs the disk space of all
            sites; processes must share the folder.
        accelerator: The ``Accelerator`` whose processes share the pass; found from the environment when not given. A
            ``Source`` has its own.
        resume: A folder for the state of the pass. When it holds a state, the pass continues from it and ends with
            the same result, bit for bit. The folder is deleted at the end of the pass.
        resume_every: Number of batches between two writes of the state.
        progress: Receives the number of finished images and, where it is known, of all.
        provenance: Describes the images (data set, revision, split, processor, transform, seed of the shuffle) in
            values that JSON can hold; stored among the fingerprints under ``data``. By default that of ``data``.

    Returns:
        The statistics, the same in every process.

    Raises:
        ConfigurationError: Invalid argument, or the sums need more than ``max_bytes``, with ``store`` those of a
            single site.
        UnsupportedModelError: The model has no MLP sites, or one whose structure differs from that of its adapter.
        NonFiniteError: Weights, images, activations or gradients hold NaN or infinity; names the site and the image.
        DataError: There are no images, or a batch has no ``pixel_values``.
        StatisticsError: The state or the store cannot be written or read, or processes or passes read different data.
        StatisticsMismatchError: The folder of ``resume`` or ``store`` holds the state of another pass.

    Example:
        >>> statistics = hf_vbp.collect_statistics(model, images, hf_vbp.VBPConfig())  # doctest: +SKIP
        >>> statistics.save("statistics.safetensors")  # doctest: +SKIP
    """
    _check_arguments(limit, resume_every)
    source = Source.of(data, accelerator)
    provenance = _provenance(source, provenance)
    prepared = prepare_sites(model, source.first)
    requires = requirements_for(prepared, config)
    _check_requirements(requires, source)
    _check_size(prepared.sites, requires, max_bytes, None if store is None else source)
    prepared.verified()
    distance = output_distance_of(prepared) if requires.output_metric and prepared.not_single_label else None
    drawn = None if not requires.output_metric else {"seed": seed, **_kinds(distance)}
    fingerprints = _fingerprints(prepared, requires, drawn, provenance)
    state = None if resume is None else (Path(resume), resume_every)
    with own_precision(prepared.model):
        if distance is not None:
            distance = with_bank(prepared, distance, source, limit)
        images = Images(source, limit, seed if drawn else None, distance)
        gathering = Gathering(prepared, requires, images, fingerprints, state, progress)
        statistics = gathering.in_one_pass() if store is None else gathering.in_groups(Path(store), max_bytes)
    if requires.saliency:
        statistics = with_saliency(prepared, statistics, source, limit=limit, progress=progress)
    gathering.discard_state()
    return statistics


def requirements_for(model: nn.Module | PreparedModel, config: VBPConfig | Requirements | None) -> Requirements:
    """Return the statistics that a pass over this model gathers for a configuration.

    Where the kind of the model's output is not known, a :class:`VBPConfig` gathers neither the output metric nor token
    weights, and its criterion weighs all directions of the outputs equally.

    Args:
        model: The model.
        config: As for :func:`collect_statistics`.

    Raises:
        ConfigurationError: The criterion needs the loss of a single-label classifier, or ``Requirements`` name
            statistics that only such a model has.
    """
    prepared = prepare_sites(model)
    name = type(prepared.model).__name__
    if isinstance(config, Requirements):
        prepared.check_requirements("The saliency", config)
        if config.output_metric and prepared.not_single_label and output_distance_of(prepared) is None:
            raise ConfigurationError(
                f"The output metric needs an output of a known kind, and {name} has none: "
                f"{prepared.not_single_label}. Gather the statistics without it (output_metric=False)."
            )
        return config
    chosen = config or VBPConfig()
    prepared.check_requirements(f"criterion {chosen.criterion!r}", chosen.make_criterion().requires)
    if prepared.not_single_label is None or output_distance_of(prepared) is not None:
        return chosen.requires
    return replace(chosen.requires, output_metric=False, token_weights=False)


def _provenance(source: Source, given: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        described: dict[str, Any] = json.loads(json.dumps(dict(source.provenance if given is None else given)))
        return described
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"provenance must hold values that JSON can hold: {error}.") from error


def _kinds(distance: OutputDistance | None) -> dict[str, str]:
    return {} if distance is None else {"output": "+".join(part.kind.value for part in distance.parts)}


def _fingerprints(
    prepared: PreparedModel, requires: Requirements, drawn: Mapping[str, Any] | None, provenance: Mapping[str, Any]
) -> dict[str, Any]:
    identity = dict(prepared.identity)
    return {
        "weights": prepared.fingerprint,
        "dtype": identity.pop("dtype"),
        "model": identity,
        "data": provenance,
        "moments": "full" if requires.covariances else "diagonal",
        "output_metric": None if drawn is None else dict(drawn),
        "token_weights": "gradient" if requires.token_weights else None,
        "versions": versions(),
    }


def _check_arguments(limit: int | None, resume_every: int) -> None:
    for name, value in (("limit", limit), ("resume_every", resume_every)):
        if value is not None and (type(value) is not int or value < 1):
            raise ConfigurationError(f"{name} must be a whole number of at least 1, got {value!r}.")


def _check_requirements(requires: Requirements, source: Source) -> None:
    if requires.token_weights and not (requires.covariances and requires.output_metric):
        raise ConfigurationError(
            "token_weights=True weighs co-moments by gradients: it needs covariances=True and output_metric=True."
        )
    if requires.saliency and source.read_once:
        raise ConfigurationError(
            f"The saliency needs a second pass over the images, but a {type(source.loader).__name__} can be iterated "
            "only once. Pass a list of batches or a DataLoader."
        )


def _check_size(sites: Sequence[MLPSite], requires: Requirements, limit: int | None, stored: Source | None) -> None:
    size = statistics_bytes(sites, requires)
    kind = "covariances" if requires.covariances else "variances"
    logger.info("The sums of %d sites take %.1f MiB (%s)", len(sites), size / 2**20, kind)
    if limit is None or size <= limit:
        return
    largest = max(statistics_bytes([site], requires) for site in sites)
    if stored is None or largest > limit:
        needed = f"{len(sites)} sites of {sites[0].intermediate_size} hidden neurons need {size:,} bytes"
        advice = "; a folder as store= gathers groups of sites in several passes"
        one = "" if len(sites) == 1 else f", the largest site {largest:,}"
        raise ConfigurationError(
            f"The {kind} of {needed}{one}, but max_bytes is {limit:,}. Raise the limit"
            + (", or use a criterion and a compensation without covariances" if requires.covariances else "")
            + (advice if largest <= limit else "")
            + "."
        )
    if stored.read_once:
        raise ConfigurationError(
            f"The {kind} need {size:,} bytes, but max_bytes is {limit:,}, so several passes over the images are "
            f"needed, and a {type(stored.loader).__name__} can be iterated only once. Pass a list of batches or a "
            "DataLoader."
        )

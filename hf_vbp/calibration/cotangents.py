"""The random cotangents at the output of a model, whose gradients give the output metric."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hf_vbp.adapters.prepared import PreparedModel
from hf_vbp.calibration.feed import LocalBatch
from hf_vbp.calibration.source import Source
from hf_vbp.errors import ConfigurationError, UnsupportedModelError
from hf_vbp.inputs.batch import model_inputs, patches_by_image
from hf_vbp.modeling.precision import eval_mode
from hf_vbp.output_distance import BANK_SIZE, SMALLEST_BANK, ImageNoise, OutputDistance, detect_kind


def output_distance_of(prepared: PreparedModel) -> OutputDistance | None:
    """Return the distance of outputs for a model; None where its kind is unknown or it has no dimension of images.

    Args:
        prepared: The model, with the output of one forward pass.
    """
    if prepared.output is None or (prepared.inputs and patches_by_image(prepared.inputs) is not None):
        return None
    try:
        return detect_kind(prepared.output, prepared.model.config, type(prepared.model).__name__)
    except (UnsupportedModelError, ConfigurationError):
        return None


def scalar_of(distance: OutputDistance, output: Any, indices: range, seed: int) -> Tensor:
    """Return the product of an output with a random cotangent of each image.

    Args:
        distance: The distance, with banks where it needs them.
        output: The output of the model, with its graph.
        indices: Number of each image in the whole set, by which its noise is seeded.
        seed: Any integer.
    """
    cotangents = distance.cotangents(output, ImageNoise(seed, list(indices)))
    return distance.inner_product(output, cotangents)


def with_bank(prepared: PreparedModel, distance: OutputDistance, source: Source, limit: int | None) -> OutputDistance:
    """Return the distance with the features of at most 500 of the images as a bank of neighbors.

    Args:
        prepared: The model; it runs in eval mode, which is restored.
        distance: The distance; one without parts that need a bank is returned unchanged.
        source: The images; they are read twice. All processes that share them get the same bank.
        limit: As for :func:`hf_vbp.collect_statistics`.

    Raises:
        ConfigurationError: The images can be read only once.
    """
    if not distance.without_bank:
        return distance
    if source.read_once:
        raise ConfigurationError(
            f"The output metric of {type(prepared.model).__name__} compares features with those of other images, "
            f"which takes a second pass, but a {type(source.loader).__name__} can be iterated only once. Pass a list "
            "of batches or a DataLoader, or gather without the metric (output_metric=False)."
        )
    found: list[tuple[int, dict[str, Tensor]]] = []

    def work(batch: LocalBatch) -> None:
        if batch.hashes:
            with torch.no_grad():
                values = distance.values(prepared.model(**model_inputs(prepared.model, batch.inputs)))
            rows = {name: values[name].cpu() for name in distance.without_bank}
            found.extend((index, _row(rows, place)) for place, index in enumerate(batch.indices))

    feed = source.open(min(BANK_SIZE, limit or BANK_SIZE))
    with eval_mode(prepared.model):
        feed.walk(work)
    every = sorted((pair for own in source.processes.gather(found) for pair in own), key=lambda pair: pair[0])
    if not every:
        return distance
    if len(every) < SMALLEST_BANK:
        raise ConfigurationError(
            f"The output metric of {type(prepared.model).__name__} compares features with those of other images, and "
            f"the data gave {len(every)}: pass at least {SMALLEST_BANK} images, or gather without the metric."
        )
    features = {name: torch.stack([row[name] for _, row in every]) for name in distance.without_bank}
    # With their numbers, so that an image is not its own neighbor: its similarity of 1 would hide all others.
    return distance.with_banks(
        {name: rows.to(torch.float32) for name, rows in features.items()}, [index for index, _ in every]
    )


def _row(values: Mapping[str, Tensor], place: int) -> dict[str, Tensor]:
    return {name: rows[place].clone() for name, rows in values.items()}

"""The measured output distance of models to the dense one, on the first calibration images."""

from typing import Any

import torch
from torch import nn

from hf_vbp._progress import Progress
from hf_vbp.adapters.prepared import PreparedModel
from hf_vbp.calibration.cotangents import output_distance_of, with_bank
from hf_vbp.calibration.feed import LocalBatch
from hf_vbp.calibration.source import Source
from hf_vbp.errors import DataError, UnsupportedModelError
from hf_vbp.inputs.batch import model_inputs
from hf_vbp.modeling.precision import eval_mode, own_precision
from hf_vbp.output_distance.naming import named_outputs

MOST_IMAGES = 256


class DistanceToDense:
    """Measures models against the dense one on the same images, whose batches and dense outputs it keeps.

    Args:
        prepared: The dense model.
        source: The images, and the processes that share them.
        limit: The largest number of images.

    Raises:
        UnsupportedModelError: There is no distance for the output of this model.
        DataError: The images can be read only once, or there are none.
    """

    def __init__(self, prepared: PreparedModel, source: Source, limit: int = MOST_IMAGES) -> None:
        if source.read_once:
            raise DataError(
                f"Measuring merged tokens takes a further pass over the images, but a {type(source.loader).__name__} "
                "can be read only once. Pass a list of batches, a DataLoader or the result of load_images."
            )
        distance = output_distance_of(prepared)
        if distance is None:
            raise UnsupportedModelError(
                f"There is no output distance for {type(prepared.model).__name__}, by which merged tokens are chosen. "
                "Give their number (merge_tokens)."
            )
        self.source, self.processes = source, source.processes
        self.prepared = prepared
        with own_precision(prepared.model):
            self.distance = with_bank(prepared, distance, source, limit)
            self.batches = self._read(limit)
        self.images = sum(self.processes.gather(sum(len(batch.hashes) for batch, _ in self.batches)))
        if not self.images:
            raise DataError("There are no images to measure merged tokens on.")

    def of(self, model: nn.Module, progress: Progress | None = None) -> float:
        """Return the mean distance of a model over the images, in nats.

        Args:
            model: A pruned or merged copy of the dense model, on the same device.
            progress: Receives the number of finished images of this process and of all.
        """
        total, done = 0.0, 0
        with own_precision(model), eval_mode(model), torch.no_grad():
            for batch, dense in self.batches:
                output = self._counted(model(**model_inputs(model, batch.inputs)))
                found = self.distance.distances(dense, output, images=list(batch.indices))["distance"]
                total, done = total + float(found.sum()), done + len(batch.hashes)
                if progress is not None:
                    progress(done, sum(len(one.hashes) for one, _ in self.batches))
        # Summed in the order of the processes, so that every one chooses the same.
        return float(sum(self.processes.gather(total)) / self.images)

    def _read(self, limit: int) -> list[tuple[LocalBatch, dict[str, Any]]]:
        read: list[tuple[LocalBatch, dict[str, Any]]] = []
        model = self.prepared.model

        def work(batch: LocalBatch) -> None:
            if batch.hashes:
                with torch.no_grad():
                    read.append((batch, self._counted(model(**model_inputs(model, batch.inputs)))))

        with eval_mode(model):
            self.source.open(limit).walk(work)
        return read

    def _counted(self, output: Any) -> dict[str, Any]:
        # Only what the distance reads is kept.
        named = named_outputs(output, type(self.prepared.model).__name__)
        return {part.key: named[part.key] for part in self.distance.parts}

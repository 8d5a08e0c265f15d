"""The figures of one model while batches are added: one accumulator for each part of the results."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hf_vbp.evaluation.dense_metrics import MultiLabelScores
from hf_vbp.evaluation.figures import Figure, figures_of
from hf_vbp.evaluation.measures import kl_divergences, top_classes
from hf_vbp.evaluation.metrics import Agreement, CalibrationError, KLDivergence, Top1Accuracy, Top5Accuracy
from hf_vbp.evaluation.outputs import mask_of
from hf_vbp.output_distance import BANK_SIZE, SMALLEST_BANK, Cosine, Neighbors, OutputDistance, OutputPart


class ClassFigures:
    """Accuracies, calibration error, agreement and KL of one label per image, from a few values of each image."""

    def __init__(self) -> None:
        self._images = self._labelled = self._compared = 0
        self._top1, self._top5 = Top1Accuracy(), Top5Accuracy()
        self._agreement, self._kl = Agreement(), KLDivergence()
        self._calibration = CalibrationError()
        self._classes: dict[int, list[int]] = {}
        self._divergences: list[Tensor] = []

    def add(self, logits: Tensor, labels: Tensor | None, reference: Tensor | None) -> None:
        """Add one batch: logits ``(n, classes)`` float64, labels ``(n,)``, logits of the reference."""
        self._images += len(logits)
        chosen = top_classes(logits, 1)[:, 0].tolist()
        if labels is not None:
            self._labelled += len(logits)
            known = labels.tolist()
            self._top1.add_batch(predictions=chosen, references=known)
            self._top5.add_batch(predictions=top_classes(logits, 5).tolist(), references=known)
            correct = [int(found == label) for found, label in zip(chosen, known, strict=True)]
            confidence = logits.softmax(-1).max(-1).values.tolist()
            self._calibration.add_batch(predictions=confidence, references=correct)
            for label, hit in zip(known, correct, strict=True):
                images, hits = self._classes.get(label, (0, 0))
                self._classes[label] = [images + 1, hits + hit]
        if reference is not None:
            self._compared += len(logits)
            self._agreement.add_batch(predictions=chosen, references=top_classes(reference, 1)[:, 0].tolist())
            divergences = kl_divergences(reference, logits)
            self._kl.add_batch(predictions=divergences.tolist())
            self._divergences.append(divergences)

    def result(self) -> dict[str, Any]:
        """Return the figures that were measured, as arguments of ``Evaluation``."""
        found: dict[str, Any] = {}
        # Accuracies of some of the images would not compare with the other figures.
        if self._labelled == self._images:
            top1 = self._top1.compute()
            found |= {"top1": top1["top1"], "top1_interval": tuple(top1["top1_interval"])}
            found["top5"] = self._top5.compute()["top5"]
            found["ece"] = self._calibration.compute()["ece"]
            found["classes"] = {
                str(label): {"images": images, "top1": hits / images}
                for label, (images, hits) in sorted(self._classes.items())
            }
        if self._compared:
            agreement = self._agreement.compute()
            found |= {
                "agreement": agreement["agreement"],
                "agreement_interval": tuple(agreement["agreement_interval"]),
            }
            found |= {"kl": self._kl.compute()["kl"], "kl_interval": Figure.of(torch.cat(self._divergences)).interval}
        return found


class LabelFigures:
    """Figures of several labels, or of numbers, against the annotations."""

    def __init__(self, several: bool) -> None:
        self._several, self._scores = several, MultiLabelScores()
        self._images, self._errors = 0, [torch.zeros(0, dtype=torch.float64)]

    def add(self, values: Tensor, labels: Tensor) -> None:
        """Add one batch: logits or numbers ``(n, outputs)`` float64, and the annotations."""
        self._images += len(values)
        if self._several:
            decided, known = (values > 0).int().tolist(), labels.int().tolist()
            self._scores.add_batch(predictions=decided, references=known)
        else:
            self._errors.append((values - labels.double().reshape(values.shape)).square().sum(1))

    def result(self, images: int) -> dict[str, Any]:
        """Return the figures; none where some of the images have no labels."""
        if self._images < images:
            return {}
        if not self._several:
            return {"label_squared_error": Figure.of(torch.cat(self._errors))}
        found = self._scores.compute()
        return {name: found[name] for name in ("label_accuracy", "f1") if name in found}


class OutputFigures:
    """The distance of each tensor of the output from that of the reference model."""

    def __init__(self, distance: OutputDistance) -> None:
        self._distance = distance
        self._values: dict[str, dict[str, list[Tensor]]] = {part.name: {} for part in distance.parts}
        self._distances: dict[str, list[Tensor]] = {part.name: [] for part in distance.parts}
        self._features: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self._images = 0

    def add(self, reference: Any, output: Any, inputs: Mapping[str, Any], images: int) -> None:
        """Add the outputs of both models for one batch."""
        for part in self._distance.parts:
            mask = mask_of(part, reference, inputs)
            masks = {} if mask is None else {part.name: mask}
            alone = OutputDistance((replace(part, weight=1.0),), self._distance.model_class_name)
            if isinstance(part.distance, Neighbors):
                pair = tuple(alone.values(each, masks)[part.name].float().cpu() for each in (reference, output))
                self._features.setdefault(part.name, []).append((pair[0], pair[1]))
                continue
            numbers = range(self._images, self._images + images)
            found = alone.distances(reference, output, masks, numbers)
            self._keep(part, {name: values.cpu() for name, values in found.items()})
        self._images += images

    def result(self) -> dict[str, Any]:
        """Return the kind and figures of each tensor, and the distance of all, as arguments of ``Evaluation``."""
        for part in self._distance.parts:
            if part.name in self._features:
                dense, pruned = (torch.cat(list(each)) for each in zip(*self._features[part.name], strict=True))
                self._keep(part, _neighbor_figures(part, dense, pruned))
        outputs = {
            part.name: {"kind": part.kind.value, **figures_of(self._values[part.name])}
            for part in self._distance.parts
        }
        total = torch.stack([torch.cat(pieces) for pieces in self._distances.values()]).sum(0)
        return {"outputs": outputs, "output_distance": Figure.of(total)}

    def _keep(self, part: OutputPart, figures: Mapping[str, Tensor]) -> None:
        for name, values in figures.items():
            if name == "distance":
                self._distances[part.name].append(values * part.weight)
            else:
                self._values[part.name].setdefault(name, []).append(values)


def _neighbor_figures(part: OutputPart, dense: Tensor, pruned: Tensor) -> dict[str, Tensor]:
    """Return the figures of features: against the first evaluation images as a bank, none its own neighbor."""
    if len(dense) <= SMALLEST_BANK:
        return Cosine().distance(dense, pruned)
    size = min(BANK_SIZE, len(dense))
    whole = OutputDistance((part,)).with_banks({part.name: dense[:size]}, range(size))
    return whole.parts[0].distance.distance(dense, pruned, None, range(len(dense)))


class Features:
    """Features and labels of images, in order."""

    def __init__(self) -> None:
        self._features: list[Tensor] = []
        self._labels: list[Tensor] = []

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Add one batch: features ``(n, dim)`` and class ids ``(n,)``."""
        self._features.append(features.float().cpu())
        self._labels.append(labels.cpu())

    @property
    def features(self) -> Tensor:
        """All features ``(images, dim)`` float32."""
        return torch.cat(self._features)

    @property
    def labels(self) -> Tensor:
        """All labels ``(images,)``."""
        return torch.cat(self._labels)

    def __len__(self) -> int:
        return sum(map(len, self._labels))

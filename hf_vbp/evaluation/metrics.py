"""Metrics of the ``evaluate`` library for pruned models; none is downloaded.

They can be used wherever a metric of ``evaluate.load`` can: batch by batch with ``add_batch``, in
``evaluate.combine``, and over several processes (``num_process``, ``process_id``, ``experiment_id``, ``cache_dir``).
They take a few values for each image rather than its logits, because ``evaluate`` stores everything that it is given
until ``compute``.
"""

import math
import tempfile
from collections.abc import Sequence
from typing import Any, ClassVar

import datasets
import evaluate

from hf_vbp.errors import ConfigurationError
from hf_vbp.evaluation.measures import wilson_interval

_CLASS = datasets.Value("int64")
_CLASSES = datasets.Sequence(datasets.Value("int64"))
_NUMBER = datasets.Value("float64")
_BINS = 15


class PerImageMetric(evaluate.Metric):  # type: ignore[misc]
    """Base of the metrics: keeps its values in memory, so that no file is left in the user's cache.

    A subclass sets ``_columns`` (the values of one image, as features of the ``datasets`` library), ``_what`` and
    ``_inputs`` (one sentence each), and defines ``_compute``; see docs/extending.md.

    Args:
        config_name: As in ``evaluate.Metric``.
        keep_in_memory: Whether to keep the values in memory; by default unless ``cache_dir`` is given.
        cache_dir: A folder for the values. Needed for several processes, which exchange them through it; it must be
            the same folder in all of them, and can be removed afterwards.
        num_process: The number of processes.
        **options: As in ``evaluate.Metric``.

    Raises:
        ConfigurationError: There are several processes, but no folder to exchange values through.
    """

    _what = ""
    _inputs = ""
    _columns: ClassVar[dict[str, Any]]

    def __init__(
        self,
        config_name: str | None = None,
        keep_in_memory: bool | None = None,
        cache_dir: str | None = None,
        num_process: int = 1,
        **options: Any,
    ) -> None:
        if num_process > 1 and cache_dir is None:
            raise ConfigurationError(
                f"num_process is {num_process}, but no cache_dir is given, through which the processes exchange their "
                f"values: pass the same folder to all of them."
            )
        super().__init__(
            config_name=config_name,
            keep_in_memory=cache_dir is None if keep_in_memory is None else keep_in_memory,
            cache_dir=cache_dir,
            num_process=num_process,
            **options,
        )

    def _build_data_dir(self) -> str:
        # evaluate makes a folder in the user's cache here, also for values that are kept in memory.
        return tempfile.gettempdir() if self.keep_in_memory else str(super()._build_data_dir())

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self._what,
            citation="",
            inputs_description=self._inputs,
            features=datasets.Features(self._columns),
        )


def _share(name: str, hits: Sequence[bool]) -> dict[str, Any]:
    count, total = sum(hits), len(hits)
    return {name: count / total, f"{name}_interval": list(wilson_interval(count, total)), "images": total}


def _mean(name: str, values: Sequence[float]) -> dict[str, Any]:
    # fsum rounds once, so that the mean does not depend on the order of the images.
    return {name: math.fsum(values) / len(values), "images": len(values)}


class Top1Accuracy(PerImageMetric):
    """Share of images whose highest logit is that of their label, with its 95 % Wilson interval.

    Example:
        >>> from hf_vbp.evaluation import Top1Accuracy
        >>> Top1Accuracy().compute(predictions=[0, 1, 1], references=[0, 1, 2])["top1"]
        0.6666666666666666
    """

    _what = "Top-1 accuracy, a fraction, with its 95 % Wilson interval."
    _inputs = "predictions: class ids (n,); references: labels (n,)."
    _columns: ClassVar[dict[str, Any]] = {"predictions": _CLASS, "references": _CLASS}

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, Any]:
        return _share("top1", [found == label for found, label in zip(predictions, references, strict=True)])


class Top5Accuracy(PerImageMetric):
    """Share of images whose label is among the five highest logits, with its 95 % Wilson interval.

    Example:
        >>> import torch
        >>> from hf_vbp.evaluation import Top5Accuracy, top_classes
        >>> logits = torch.tensor([[6.0, 5.0, 4.0, 3.0, 2.0, 1.0], [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]])
        >>> Top5Accuracy().compute(predictions=top_classes(logits, 5), references=[4, 5])["top5"]
        0.5
    """

    _what = "Top-5 accuracy, a fraction, with its 95 % Wilson interval."
    _inputs = "predictions: ids of the five best classes (n, 5); references: labels (n,)."
    _columns: ClassVar[dict[str, Any]] = {"predictions": _CLASSES, "references": _CLASS}

    def _compute(self, predictions: Sequence[Sequence[int]], references: Sequence[int]) -> dict[str, Any]:
        return _share("top5", [label in best for best, label in zip(predictions, references, strict=True)])


class Agreement(PerImageMetric):
    """Share of images for which two models choose the same class, with its 95 % Wilson interval.

    Example:
        >>> from hf_vbp.evaluation import Agreement
        >>> Agreement().compute(predictions=[0, 1], references=[0, 2])["agreement"]
        0.5
    """

    _what = "Share of images for which a model chooses the same class as the reference model."
    _inputs = "predictions: class ids of the model (n,); references: class ids of the reference model (n,)."
    _columns: ClassVar[dict[str, Any]] = {"predictions": _CLASS, "references": _CLASS}

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, Any]:
        return _share("agreement", [found == other for found, other in zip(predictions, references, strict=True)])


class KLDivergence(PerImageMetric):
    """Mean Kullback-Leibler divergence KL(reference || model) of class probabilities, in nats.

    Example:
        >>> import torch
        >>> from hf_vbp.evaluation import KLDivergence, kl_divergences
        >>> logits = torch.tensor([[1.0, 2.0]])
        >>> KLDivergence().compute(predictions=kl_divergences(logits, logits))["kl"]
        0.0
    """

    _what = "Mean over images of KL(reference || model) between the class probabilities, in nats."
    _inputs = "predictions: the divergence of each image (n,), as of hf_vbp.evaluation.kl_divergences."
    _columns: ClassVar[dict[str, Any]] = {"predictions": _NUMBER}

    def _compute(self, predictions: Sequence[float]) -> dict[str, Any]:
        return _mean("kl", predictions)


class CalibrationError(PerImageMetric):
    """Expected calibration error (ECE): how far the confidence of the answers is from their accuracy.

    Images are put into 15 bins of equal width by the probability of their answer; the difference between mean
    probability and accuracy of each bin is averaged over the images (Guo et al., "On Calibration of Modern Neural
    Networks", ICML 2017, equation 3).

    Example:
        >>> from hf_vbp.evaluation import CalibrationError
        >>> CalibrationError().compute(predictions=[0.75, 0.75], references=[1, 0])["ece"]
        0.25
    """

    _what = "Expected calibration error in 15 bins, a fraction."
    _inputs = "predictions: probability of the answer (n,); references: 1 where it is correct, else 0 (n,)."
    _columns: ClassVar[dict[str, Any]] = {"predictions": _NUMBER, "references": _CLASS}

    def _compute(self, predictions: Sequence[float], references: Sequence[int]) -> dict[str, Any]:
        bins: dict[int, list[float]] = {}
        for confidence, correct in zip(predictions, references, strict=True):
            bins.setdefault(min(int(confidence * _BINS), _BINS - 1), []).append(correct - confidence)
        total = math.fsum(abs(math.fsum(differences)) for differences in bins.values())
        return {"ece": total / len(predictions), "images": len(predictions)}


class MeanLoss(PerImageMetric):
    """Mean of a loss over images.

    Example:
        >>> from hf_vbp.evaluation import MeanLoss
        >>> MeanLoss().compute(predictions=[0.5, 1.5])["loss"]
        1.0
    """

    _what = "Mean of a loss over images."
    _inputs = "predictions: the loss of each image (n,)."
    _columns: ClassVar[dict[str, Any]] = {"predictions": _NUMBER}

    def _compute(self, predictions: Sequence[float]) -> dict[str, Any]:
        return _mean("loss", predictions)

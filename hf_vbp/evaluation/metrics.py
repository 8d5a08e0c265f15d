"""The same figures as metrics of the ``evaluate`` library, none of which is downloaded.

They can be used wherever a metric of ``evaluate.load`` can: in a Trainer's ``compute_metrics``, batch by batch
with ``add_batch``, and over several processes (``num_process``, ``process_id``, ``experiment_id``).
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import torch

from hf_vbp.evaluation.measures import kl_divergences, top_k_hits, wilson_interval

_CITATION = ""
_CLASSES = {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
_LOGITS = datasets.Sequence(datasets.Value("float32"))


def _info(description: str, inputs: str, features: dict[str, Any]) -> evaluate.MetricInfo:
    return evaluate.MetricInfo(
        description=description,
        citation=_CITATION,
        inputs_description=inputs,
        features=datasets.Features(features),
    )


def _share(name: str, hits: torch.Tensor) -> dict[str, Any]:
    count, total = int(hits.sum()), len(hits)
    return {name: count / total, f"{name}_interval": list(wilson_interval(count, total)), "images": total}


class Top1Accuracy(evaluate.Metric):  # type: ignore[misc]
    """Share of images whose highest logit is that of their label, with its 95 % Wilson interval.

    Example:
        >>> from hf_vbp.evaluation import Top1Accuracy
        >>> Top1Accuracy().compute(predictions=[0, 1, 1], references=[0, 1, 2])["top1"]
        0.6666666666666666
    """

    def _info(self) -> evaluate.MetricInfo:
        return _info(
            "Top-1 accuracy, a fraction, with its 95 % Wilson interval.",
            "predictions: class ids (n,); references: labels (n,).",
            _CLASSES,
        )

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, Any]:
        return _share("top1", torch.as_tensor(predictions) == torch.as_tensor(references))


class Top5Accuracy(evaluate.Metric):  # type: ignore[misc]
    """Share of images whose label is among the five highest logits, with its 95 % Wilson interval.

    Example:
        >>> from hf_vbp.evaluation import Top5Accuracy
        >>> logits = [[6.0, 5.0, 4.0, 3.0, 2.0, 1.0], [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]]
        >>> Top5Accuracy().compute(predictions=logits, references=[4, 5])["top5"]
        0.5
    """

    def _info(self) -> evaluate.MetricInfo:
        return _info(
            "Top-5 accuracy, a fraction, with its 95 % Wilson interval.",
            "predictions: logits (n, classes); references: labels (n,).",
            {"predictions": _LOGITS, "references": datasets.Value("int64")},
        )

    def _compute(self, predictions: Sequence[Sequence[float]], references: Sequence[int]) -> dict[str, Any]:
        return _share("top5", top_k_hits(torch.as_tensor(predictions), torch.as_tensor(references), 5))


class Agreement(evaluate.Metric):  # type: ignore[misc]
    """Share of images for which two models choose the same class, with its 95 % Wilson interval.

    Example:
        >>> from hf_vbp.evaluation import Agreement
        >>> Agreement().compute(predictions=[0, 1], references=[0, 2])["agreement"]
        0.5
    """

    def _info(self) -> evaluate.MetricInfo:
        return _info(
            "Share of images for which a model chooses the same class as the reference model.",
            "predictions: class ids of the model (n,); references: class ids of the reference model (n,).",
            _CLASSES,
        )

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, Any]:
        return _share("agreement", torch.as_tensor(predictions) == torch.as_tensor(references))


class KLDivergence(evaluate.Metric):  # type: ignore[misc]
    """Mean Kullback-Leibler divergence KL(reference || model) of class probabilities, in nats.

    Example:
        >>> from hf_vbp.evaluation import KLDivergence
        >>> KLDivergence().compute(predictions=[[1.0, 2.0]], references=[[1.0, 2.0]])["kl"]
        0.0
    """

    def _info(self) -> evaluate.MetricInfo:
        return _info(
            "Mean over images of KL(reference || model) between the class probabilities, in nats.",
            "predictions: logits of the model (n, classes); references: logits of the reference model.",
            {"predictions": _LOGITS, "references": _LOGITS},
        )

    def _compute(
        self, predictions: Sequence[Sequence[float]], references: Sequence[Sequence[float]]
    ) -> dict[str, Any]:
        each = kl_divergences(torch.as_tensor(references), torch.as_tensor(predictions))
        return {"kl": float(each.mean()), "images": len(each)}

"""Metrics that the user names: segmentation, depth and detection, before and after pruning."""

from typing import Any

import datasets
import evaluate
import jsonschema
import numpy as np
import pytest
import torch

import hf_vbp
from hf_vbp.errors import ConfigurationError, DataError, LabelError
from hf_vbp.evaluation import DepthError, MeanIoU, Measures, MultiLabelScores, TaskMetric, evaluate_models
from hf_vbp.results.record import schema
from tests.families.running import BY_NAME, model_of


def segments(output: Any, batch: Any) -> Any:
    return output.logits.argmax(1).tolist()


def annotated(name: str, size: tuple[int, ...], classes: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    batches = [BY_NAME[name].batch(3), BY_NAME[name].batch(2, 0, 3)]
    return [
        {**batch, "labels": torch.randint(0, classes, (len(batch["pixel_values"]), *size), generator=generator)}
        for batch in batches
    ]


def mean_iou(predicted: Any, known: Any, classes: int, ignored: int) -> float:
    counted, found = known != ignored, []
    for each in range(classes):
        both = ((predicted == each) & (known == each) & counted).sum()
        either = (((predicted == each) | (known == each)) & counted).sum()
        if either:
            found.append(both / either)
    return float(np.mean(found))


def test_a_segmenter_before_and_after_pruning() -> None:
    name = "SegformerForSemanticSegmentation"
    model = model_of(name)
    with torch.no_grad():
        shape = model(**BY_NAME[name].batch(1)).logits.shape
    batches = annotated(name, tuple(shape[2:]), shape[1])
    for batch in batches:
        batch["labels"][:, 0, 0] = 255
    options = {"num_labels": int(shape[1]), "ignore_index": 255}
    measures = Measures(metrics=[TaskMetric("mean_iou", segments, options=options)])
    calibration = [BY_NAME[name].batch(4), BY_NAME[name].batch(4, 0, 4)]
    result = hf_vbp.prune(model, calibration, hf_vbp.VBPConfig(ratio=0.5), eval_data=batches, measures=measures)
    jsonschema.validate(result.results, schema())
    for key, one in (("dense", model), ("pruned", result.model)):
        with torch.no_grad():
            predicted = np.concatenate([one(pixel_values=b["pixel_values"]).logits.argmax(1).numpy() for b in batches])
        known = np.concatenate([b["labels"].numpy() for b in batches])
        found = result.results["evaluation"][key]["metrics"]["mean_iou"]
        assert found["mean_iou"] == pytest.approx(mean_iou(predicted, known, shape[1], 255))
        counted = known != 255
        assert found["pixel_accuracy"] == pytest.approx((predicted == known)[counted].mean())
    assert result.results["evaluation"]["pruned"]["outputs"]["logits"]["kind"] == "pixel_classes"


class Hits(evaluate.Metric):  # type: ignore[misc]
    """A metric of detections, as a user or the Hub defines one."""

    def _info(self) -> Any:
        features = {
            "predictions": {"label": datasets.Value("int64")},
            "references": {"label": datasets.Value("int64")},
        }
        return evaluate.MetricInfo("", "", features=datasets.Features(features))

    def _compute(self, predictions: Any, references: Any, scale: float = 1.0) -> Any:
        hits = [one["label"] == other["label"] for one, other in zip(predictions, references, strict=True)]
        return {"hits": scale * float(np.mean(hits)), "each": hits, "nothing": float("nan")}


def test_a_detector_with_a_metric_object_and_lists_of_annotations() -> None:
    name = "DetrForObjectDetection"
    model, batches = model_of(name), [BY_NAME[name].batch(3), BY_NAME[name].batch(2, 0, 3)]
    batches = [
        {**batch, "labels": [{"label": each} for each in range(len(batch["pixel_values"]))]} for batch in batches
    ]

    def best(output: Any, batch: Any) -> Any:
        return [{"label": int(row[:, :-1].amax(0).argmax())} for row in output.logits]

    hits = Hits()
    measures = Measures(metrics=[TaskMetric(hits, best, options={"scale": 2.0}, name="hits of boxes")])
    found = evaluate_models({"dense": model, "same": model}, batches, measures=measures)
    with torch.no_grad():
        logits = [model(**{k: v for k, v in b.items() if k != "labels"}).logits for b in batches]
    expected = [int(row[:, :-1].amax(0).argmax()) == i for each in logits for i, row in enumerate(each)]
    # Single finite numbers only, from values of each model alone.
    assert found["dense"].metrics == found["same"].metrics == {"hits of boxes": {"hits": 2 * np.mean(expected)}}
    # The object of the user is not used up.
    hits.add_batch(predictions=[{"label": 1}], references=[{"label": 1}])
    assert hits.compute()["hits"] == 1.0


def test_depth_and_all_arguments_of_a_metric() -> None:
    name = "DPTForDepthEstimation"
    model, batches = model_of(name), [BY_NAME[name].batch(2)]
    with torch.no_grad():
        depth = model(**batches[0]).predicted_depth
    known = (depth.abs() + 1).numpy()
    known[0, 0] = 0

    def arguments(output: Any, batch: Any) -> Any:
        return {"predictions": output.predicted_depth.numpy(), "references": known}

    metric = TaskMetric("depth_error", arguments, references=None)
    found = evaluate_models({"m": model}, batches, reference=None, measures=Measures(metrics=metric))  # type: ignore[arg-type]
    predicted, valid = depth.double().numpy(), known > 0
    relative = [np.mean(abs(p - k)[v] / k[v]) for p, k, v in zip(predicted, known, valid, strict=True)]
    squared = [np.sqrt(np.mean((p - k)[v] ** 2)) for p, k, v in zip(predicted, known, valid, strict=True)]
    values = found["m"].metrics["depth_error"]
    assert values["absolute_relative_error"] == pytest.approx(np.mean(relative), rel=1e-6)
    assert values["rmse"] == pytest.approx(np.mean(squared), rel=1e-6)


def test_annotations_that_do_not_fit() -> None:
    name = "SegformerForSemanticSegmentation"
    model, batch = model_of(name), BY_NAME[name].batch(2)
    metric = TaskMetric("mean_iou", segments, references="masks", options={"num_labels": 3})
    with pytest.raises(DataError, match=r"needs annotations as 'masks', but a batch has pixel_values: add them"):
        evaluate_models({"m": model}, [batch], reference=None, measures=Measures(metrics=[metric]))
    with pytest.raises(LabelError, match="A segmentation has 4 pixels and its annotation 2"):
        MeanIoU().compute(predictions=[[[0, 1], [0, 1]]], references=[[[0, 1]]], num_labels=2)
    with pytest.raises(LabelError, match=r"annotated as class 255, but num_labels is 2.*ignore_index"):
        MeanIoU().compute(predictions=[[[0, 1]]], references=[[[255, 1]]], num_labels=2)
    with pytest.raises(LabelError, match="No pixel is annotated"):
        MeanIoU().compute(predictions=[[[0]]], references=[[[255]]], num_labels=2, ignore_index=255)
    with pytest.raises(LabelError, match="resize the prediction"):
        DepthError().compute(predictions=[[[1.0]]], references=[[[1.0, 2.0]]])
    with pytest.raises(LabelError, match="No pixel has a known depth"):
        DepthError().compute(predictions=[[[1.0]]], references=[[[0.0]]])
    assert MultiLabelScores().compute(predictions=[[0]], references=[[0]]) == {"label_accuracy": 1.0, "images": 1}


def test_a_metric_without_a_number_is_refused() -> None:
    class Nothing(Hits):
        def _compute(self, predictions: Any, references: Any) -> Any:
            return {"each": [1, 2]}

    def first(output: Any, batch: Any) -> Any:
        return {key: [{"label": 0}] for key in ("predictions", "references")}

    measures = Measures(metrics=[TaskMetric(Nothing(), first)])
    with pytest.raises(ConfigurationError, match="gives each, of which nothing is a finite number"):
        evaluate_models(
            {"m": model_of("DPTForDepthEstimation")},
            [BY_NAME["DPTForDepthEstimation"].batch(1)],
            reference=None,
            measures=measures,
        )

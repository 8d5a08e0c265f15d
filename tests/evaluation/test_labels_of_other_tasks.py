"""Labels of several labels per image and of regressions, and requests that have no meaning."""

from typing import Any

import pytest
import torch

from hf_vbp.errors import ConfigurationError, DataError, LabelError, UnsupportedModelError
from hf_vbp.evaluation import Measures, TaskMetric, ZeroShot
from hf_vbp.evaluation.models import evaluate_models
from tests.conftest import make_model

Batches = list[dict[str, torch.Tensor]]


def relabelled(batches: Batches, shape: tuple[int, ...], several: bool) -> Batches:
    generator = torch.Generator().manual_seed(0)

    def labels(images: int) -> torch.Tensor:
        drawn = torch.randn(images, *shape, generator=generator)
        return (drawn > 0.3).float() if several else drawn

    return [{"pixel_values": b["pixel_values"], "labels": labels(len(b["pixel_values"]))} for b in batches]


def outputs(model: Any, batches: Batches) -> Any:
    with torch.no_grad():
        return torch.cat([model(pixel_values=b["pixel_values"]).logits for b in batches]).double().numpy()


def test_several_labels_per_image(batches: Batches) -> None:
    models = {"dense": make_model(problem_type="multi_label_classification")}
    models["other"] = make_model(problem_type="multi_label_classification", seed=1)
    labelled = relabelled(batches, (5,), several=True)
    found = evaluate_models(models, labelled)
    known = torch.cat([b["labels"] for b in labelled]).numpy() > 0
    for name, model in models.items():
        said = outputs(model, batches) > 0
        true, false, missed = (said & known).sum(), (said & ~known).sum(), (~said & known).sum()
        assert found[name].f1 == pytest.approx(2 * true / (2 * true + false + missed))
        assert found[name].label_accuracy == pytest.approx((said == known).mean())
    assert found["dense"].outputs == {}
    assert found["other"].top1 is None
    agree = ((outputs(models["dense"], batches) > 0) == (outputs(models["other"], batches) > 0)).mean(1)
    assert found["other"].outputs["logits"]["agreement"].mean == pytest.approx(agree.mean())


@pytest.mark.parametrize("shape", [(), (1,), (3,)])
def test_a_regression(batches: Batches, shape: tuple[int, ...]) -> None:
    count = shape[0] if shape else 1
    models = {"dense": make_model(num_labels=count, problem_type="regression")}
    models["other"] = make_model(num_labels=count, problem_type="regression", seed=1)
    labelled = relabelled(batches, shape, several=False)
    found = evaluate_models(models, labelled)
    known = torch.cat([b["labels"] for b in labelled]).reshape(30, count).numpy()
    for name, model in models.items():
        errors = ((outputs(model, batches) - known) ** 2).sum(1)
        error = found[name].label_squared_error
        assert error is not None
        assert error.mean == pytest.approx(errors.mean(), rel=1e-5)
        assert error.standard_error == pytest.approx(errors.std(ddof=1) / 30**0.5, rel=1e-5)
    between = ((outputs(models["dense"], batches) - outputs(models["other"], batches)) ** 2).sum(1)
    assert found["other"].outputs["logits"]["squared_error"].mean == pytest.approx(between.mean(), rel=1e-6)


def test_labels_of_another_form_are_refused(batches: Batches) -> None:
    several, numbers = (
        make_model(problem_type="multi_label_classification"),
        make_model(num_labels=2, problem_type="regression"),
    )
    with pytest.raises(LabelError, match=r"int64 of shape \(8,\); expected 0 or 1 for each label"):
        evaluate_models({"model": several}, batches, reference=None)
    halves = [batches[0] | {"labels": torch.full((8, 5), 0.5)}]
    with pytest.raises(LabelError, match="expected 0 or 1 for each label"):
        evaluate_models({"model": several}, halves, reference=None)
    with pytest.raises(LabelError, match=r"have the shape \(8,\), but model gives \(8, 2\)"):
        evaluate_models({"model": numbers}, batches, reference=None)


def test_requests_that_have_no_meaning() -> None:
    classes = lambda output, batch: output.logits.argmax(-1).tolist()  # noqa: E731
    with pytest.raises(ConfigurationError, match=r"no metric 'map' in this package, which has agreement, depth_error"):
        TaskMetric("map", classes)
    with pytest.raises(ConfigurationError, match="The metric is a int; expected the name"):
        TaskMetric(3, classes)
    with pytest.raises(ConfigurationError, match="predictions is a str; expected a function"):
        TaskMetric("top1", "argmax")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="Two metrics have the name 'top1'"):
        Measures(metrics=[TaskMetric("top1", classes), TaskMetric("top1", classes)])
    with pytest.raises(ConfigurationError, match="metrics has a str; expected"):
        Measures(metrics=["top1"])  # type: ignore[list-item]
    with pytest.raises(ConfigurationError, match="neighbors is 0"):
        Measures(neighbors=0)
    with pytest.raises(ConfigurationError, match="class_names is 'cat'; expected a list"):
        ZeroShot("cat", classes)
    with pytest.raises(ConfigurationError, match=r"'a photo' has no \{\} for the name"):
        ZeroShot(["cat", "dog"], classes, template="a photo")
    with pytest.raises(ConfigurationError, match="expected ZeroShot"):
        Measures(zero_shot=["cat", "dog"])  # type: ignore[arg-type]


def test_prompts_and_banks_need_a_model_that_has_a_use_for_them(batches: Batches) -> None:
    prompts = Measures(zero_shot=ZeroShot(["cat", "dog"], print))
    with pytest.raises(UnsupportedModelError, match="has no towers for images and texts"):
        evaluate_models({"model": make_model()}, batches, reference=None, measures=prompts)
    backbone = {"model": make_model("vit-backbone")}
    unlabelled = [{"pixel_values": batch["pixel_values"]} for batch in batches]
    with pytest.raises(LabelError, match="The bank of neighbors has no labels"):
        evaluate_models(backbone, batches, reference=None, measures=Measures(bank=unlabelled))
    with pytest.raises(DataError, match="The bank of neighbors has no images"):
        evaluate_models(backbone, batches, reference=None, measures=Measures(bank=[]))
    with pytest.raises(ConfigurationError, match="neighbors is 31, but the bank has 30"):
        evaluate_models(backbone, batches, reference=None, measures=Measures(bank=batches, neighbors=31))

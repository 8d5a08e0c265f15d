"""Sweeps of models that are no classifiers: the rows are those of single prunes, compared by what is measured."""

from pathlib import Path
from typing import Any

import pytest
import torch

import hf_vbp
from hf_vbp import VBPConfig
from hf_vbp.costs.counts import describe_cost
from hf_vbp.costs.latency import LatencyOptions
from hf_vbp.errors import ConfigurationError, DataError, LabelError
from hf_vbp.evaluation import Measures, TaskMetric, ZeroShot
from hf_vbp.evaluation.figures import Evaluation, Figure
from hf_vbp.workflow.sweep_front import accuracy, mark_fronts, measure_of
from hf_vbp.workflow.sweep_plot import can_draw, draw, limits
from hf_vbp.workflow.sweep_table import SweepTable, flat
from tests.conftest import make_model
from tests.costs.clock import Clock
from tests.evaluation.prompts import word_tokenizer
from tests.families.running import BY_NAME, model_of

RATIOS = [0.2, 0.4]
OTHERS = [
    "Dinov2Model",
    "YolosForObjectDetection",
    "SegformerForSemanticSegmentation",
    "DPTForDepthEstimation",
    "CLIPModel",
    "VideoMAEModel",
]


@pytest.mark.parametrize("name", OTHERS)
def test_rows_are_those_of_single_prunes(name: str) -> None:
    family, dense = BY_NAME[name], model_of(name)
    batches = [family.batch(3), family.batch(2, 0, 3)]
    statistics = hf_vbp.collect_statistics(dense, batches)
    rows = hf_vbp.sweep(dense, batches, ratios=RATIOS, eval_data=batches, statistics=statistics)
    assert rows[0]["ratio"] == 0.0
    for row in rows[1:]:
        config = VBPConfig(ratio=row["ratio"])
        pruned = hf_vbp.prune(dense, batches, config, statistics=statistics, eval_data=batches)
        expected = pruned.results["evaluation"]["pruned"]
        assert {key: row[key] for key in expected} == expected
        assert row["parameters"] == pruned.results["cost"]["pruned"]["parameters"]
    assert measure_of(rows) == "output_distance"
    distances = [accuracy(row, "output_distance") for row in rows]
    assert distances[0] == 0.0
    assert all(value is not None and value < 0 for value in distances[1:])


class Again:
    """Batches that can be iterated again, in an order of the global generator; counts how often they are."""

    def __init__(self, batches: Any) -> None:
        self.batches, self.times = batches, 0

    def __iter__(self) -> Any:
        self.times += 1
        yield from (self.batches[index] for index in torch.randperm(len(self.batches)))


def no_pass(*args: Any, **options: Any) -> Any:
    raise AssertionError("the calibration images were read")


def test_labels_of_data_that_can_be_iterated_again_are_found_before_the_pass(
    batches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, classifier = make_model("vit-backbone"), make_model("vit")
    unlabelled = [{"pixel_values": batch["pixel_values"]} for batch in batches]
    wrong = [{**batch, "labels": batch["labels"].float()} for batch in batches]
    for module in ("prune", "sweep"):
        monkeypatch.setattr(f"hf_vbp.workflow.{module}.collect_statistics", no_pass)
    for model, eval_data, reason in (
        (backbone, batches, "labelled images as a bank"),
        (classifier, wrong, "labels of a batch are"),
    ):
        with pytest.raises((ConfigurationError, LabelError), match=reason):
            hf_vbp.prune(model, unlabelled, VBPConfig(ratio=0.3), eval_data=Again(eval_data))
        with pytest.raises((ConfigurationError, LabelError), match=reason):
            hf_vbp.sweep(model, unlabelled, ratios=RATIOS, eval_data=Again(eval_data))


def test_data_that_can_be_iterated_again_give_the_figures_of_a_list(batches: Any) -> None:
    backbone = make_model("vit-backbone")
    state = torch.get_rng_state()
    expected = hf_vbp.prune(backbone, batches, VBPConfig(ratio=0.3), eval_data=batches).results["evaluation"]
    again = Again(batches)
    torch.set_rng_state(state)
    found = hf_vbp.prune(backbone, batches, VBPConfig(ratio=0.3), eval_data=again).results["evaluation"]
    assert again.times == 2
    assert found["pruned"]["images"] == expected["pruned"]["images"]
    assert found["pruned"]["knn"] == expected["pruned"]["knn"]


def test_a_backbone_is_compared_by_its_neighbors(batches: Any) -> None:
    backbone = make_model("vit-backbone")
    rows = hf_vbp.sweep(backbone, batches, ratios=RATIOS, eval_data=batches)
    measures = Measures(bank=batches)
    for row in rows[1:]:
        pruned = hf_vbp.prune(backbone, batches, VBPConfig(ratio=row["ratio"])).model
        found = hf_vbp.evaluate_models({"dense": backbone, "pruned": pruned}, batches, measures=measures)["pruned"]
        assert {key: row[key] for key in found.to_dict()} == found.to_dict()
        assert row["parameters"] == describe_cost(pruned)["parameters"]
    assert measure_of(rows) == "knn_top1"
    with_fewer = hf_vbp.sweep(
        backbone, batches, ratios=[0.2], eval_data=batches, measures=Measures(bank=batches, neighbors=3)
    )
    assert with_fewer[1]["knn"]["neighbors"] == 3


@pytest.mark.parametrize(
    ("changes", "shape", "figure"),
    [
        ({"num_labels": 1}, (), "label_squared_error"),
        ({"num_labels": 3, "problem_type": "regression"}, (3,), "label_squared_error"),
        ({"problem_type": "multi_label_classification"}, (5,), "f1"),
    ],
)
def test_other_heads_have_their_figures_against_the_labels(
    changes: dict[str, Any], shape: tuple[int, ...], figure: str, batches: Any
) -> None:
    generator = torch.Generator().manual_seed(0)
    dense = make_model(**changes)
    data = [
        {**batch, "labels": (torch.rand(len(batch["labels"]), *shape, generator=generator) > 0.5).float()}
        for batch in batches
    ]
    (before, after) = hf_vbp.sweep(dense, data, ratios=[0.5], eval_data=data)
    assert figure in before
    assert figure in after
    assert after["output_distance"]["mean"] > 0
    assert measure_of([before, after]) == "output_distance"


def test_a_dual_encoder_is_compared_by_prompts() -> None:
    family = BY_NAME["CLIPModel"]
    batches = [{**family.batch(4), "labels": torch.tensor([0, 1, 1, 0])}]
    measures = Measures(zero_shot=ZeroShot(["cat", "dog"], word_tokenizer()))
    rows = hf_vbp.sweep(model_of(family.name), batches, ratios=[0.4], eval_data=batches, measures=measures)
    assert measure_of(rows) == "zero_shot_top1"
    assert [accuracy(row, "zero_shot_top1") for row in rows] == [row["zero_shot"]["top1"] for row in rows]


def test_metrics_of_annotated_images_and_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(lambda model, now: model.num_parameters() * 1e-6, noise=0.02).install(monkeypatch)
    family = BY_NAME["SegformerForSemanticSegmentation"]
    batches = [{**family.batch(3), "labels": torch.zeros(3, 16, 16, dtype=torch.int64)}]

    def segments(output: Any, batch: Any) -> Any:
        return torch.nn.functional.interpolate(output.logits, batch["labels"].shape[-2:]).argmax(1).tolist()

    metric = TaskMetric("mean_iou", segments, options={"num_labels": 5})
    rows = hf_vbp.sweep(
        model_of(family.name),
        batches,
        ratios=[0.4],
        eval_data=batches,
        measures=Measures(metrics=[metric]),
        latency=LatencyOptions(batch=1),
    )
    assert all(row["metrics"] for row in rows)
    assert rows[1]["speedup"] > 1


def test_requests_without_meaning_fail_before_the_images_are_read(vit: Any, batches: Any) -> None:
    def unread() -> Any:
        raise AssertionError("the images were read before the request was checked")
        yield

    with pytest.raises(ConfigurationError, match="neighbors are sought for backbones"):
        hf_vbp.sweep(vit, unread(), ratios=[0.2], eval_data=batches, measures=Measures(bank=batches))
    backbone = make_model("vit-backbone")
    for bank, error, says in (
        ([{"pixel_values": torch.zeros(2, 3, 32, 32)}], LabelError, "The bank of neighbors has no labels"),
        ([{**batches[0], "labels": torch.zeros(8)}], LabelError, "expected one class id for each image"),
        ([{**batches[0], "pixel_values": torch.zeros(8, 3, 16, 16)}], DataError, "16"),
    ):
        with pytest.raises(error, match=says):
            hf_vbp.sweep(backbone, unread(), ratios=[0.2], eval_data=batches, measures=Measures(bank=bank))
    five, once = [0.1, 0.2, 0.3, 0.4, 0.5], Measures(bank=iter(batches))
    with pytest.raises(DataError, match="The bank of measures is read once for every 4 models"):
        hf_vbp.sweep(make_model("vit-backbone"), unread(), ratios=five, eval_data=batches, measures=once)
    family = BY_NAME["DPTForDepthEstimation"]
    wrong = [{**family.batch(2), "labels": torch.tensor([0, 1])}]
    with pytest.raises(LabelError, match="which labels of images cannot be compared with"):
        hf_vbp.sweep(model_of(family.name), unread(), ratios=[0.2], eval_data=wrong)


def evaluated(distance: float | None, top1: float | None = None) -> dict[str, Any]:
    spread = None if distance is None else Figure(distance, 0.1, (distance - 0.1, distance + 0.1))
    knn = (
        None
        if top1 is None
        else {"top1": top1, "interval": [top1 - 0.1, top1 + 0.1], "neighbors": 20, "bank_images": 50}
    )
    return Evaluation(images=8, output_distance=spread, knn=knn).to_dict()


COST = {"parameters": 90, "macs": 100, "bytes": 360}
NAMED = {"model": "m", "weights": "a", "statistics": "b", "evaluation": "c"}


def table_of(figures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The dense model, then models with fewer and fewer MACs."""
    method = {"criterion": "obs", "compensation": "linear", "scope": "global"}
    rows = []
    for number, found in enumerate(figures):
        row = {"ratio": number / 10, **COST, "macs": 100 - 10 * number, **found, **(method if number else {})}
        rows.append(flat(row, **NAMED))
    return rows


def test_a_lower_distance_is_better() -> None:
    rows = table_of([evaluated(None), evaluated(0.5), evaluated(0.9), evaluated(0.7)])
    mark_fronts(rows)
    # The third one is farther from the dense model than the fourth one, which is cheaper.
    assert [row["on_macs_front"] for row in rows] == [True, True, False, True]


def test_neighbors_count_before_the_distance() -> None:
    rows = table_of([evaluated(None, 0.8), evaluated(0.5, 0.6), evaluated(0.9, 0.7)])
    mark_fronts(rows)
    assert [row["on_macs_front"] for row in rows] == [True, False, True]


def test_the_table_has_columns_for_both_and_is_read_again(tmp_path: Path) -> None:
    table = SweepTable(tmp_path / "sweep.csv")
    rows = table_of([evaluated(None, 0.75), evaluated(0.5, 0.625)])
    table.add(rows)
    read = SweepTable.load(table.path).rows
    assert read == rows
    assert (read[1]["knn_top1"], read[1]["neighbors"], read[1]["bank_images"]) == (0.625, 20, 50)
    assert (read[1]["output_distance"], read[1]["output_distance_high"]) == (0.5, 0.6)


@pytest.mark.skipif(not can_draw(), reason="matplotlib is not installed")
@pytest.mark.parametrize("top1", [None, 0.5])
def test_the_plot_shows_what_was_measured(top1: float | None) -> None:
    image = draw(table_of([evaluated(None, top1), evaluated(0.5, top1), evaluated(12.0, top1)]), "title")
    assert image.startswith(b"\x89PNG")


def test_the_axis_of_distances_covers_them() -> None:
    low, high = limits([0.0, 12.0], share=False)
    assert low < 0
    assert high > 12
    assert limits([0.0], share=False)[1] > 0

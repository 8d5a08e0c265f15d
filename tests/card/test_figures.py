"""The figures that depend on the kind of output, in the results and the card."""

from typing import Any

import jsonschema

from hf_vbp.card.render import make_facts, render_card
from hf_vbp.results.named_figures import figure_rows, named_figures
from hf_vbp.results.record import parse_results, schema, to_json
from tests.hub.helpers import make_results

DETECTOR: dict[str, Any] = {
    "dense": {"images": 40, "metrics": {"map": {"map": 0.31, "map_small": 0.1, "images": 40}}},
    "pruned": {
        "images": 40,
        "outputs": {
            "logits": {
                "kind": "logits",
                "kl": {"mean": 0.1234, "standard_error": 0.01, "interval": [0.1, 0.15]},
                "agreement": {"mean": 0.9, "standard_error": 0.01, "interval": [0.88, 0.92]},
            },
            "pred_boxes": {"kind": "boxes", "squared_error": {"mean": 12.5}},
        },
        "metrics": {"map": {"map": 0.29, "map_small": 0.09, "images": 40}},
    },
}
BACKBONE: dict[str, Any] = {
    "dense": {"images": 40, "knn": {"top1": 0.8, "interval": [0.7, 0.9], "neighbors": 20, "bank_images": 1000}},
    "pruned": {
        "images": 40,
        "knn": {
            "top1": 0.75,
            "interval": [0.6, 0.86],
            "change": -0.05,
            "change_interval": [-0.12, 0.01],
            "neighbors": 20,
            "bank_images": 1000,
        },
    },
}


def card_of(evaluation: dict[str, Any]) -> str:
    results = make_results(evaluation=evaluation)
    jsonschema.validate(results, schema())
    return str(render_card(make_facts(parse_results(to_json(results)), repo_id="me/pruned", base_model="me/base")))


def test_the_card_of_a_detector_names_its_figures() -> None:
    card = card_of(DETECTOR)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in card.splitlines() if line.startswith("|")]
    assert ["map", "0.31", "0.29"] in rows
    assert ["map: map\\_small", "0.1", "0.09"] in rows
    assert ["logits: KL (nats)", "", "0.123 (0.1 to 0.15)"] in rows
    assert ["logits: same answer as the dense model", "", "90.0 % (88.0 to 92.0)"] in rows
    # A squared error is no share, so it is not shown as one.
    assert ["pred\\_boxes: squared error", "", "12.5"] in rows
    assert "top-1" not in card


def test_the_card_of_a_backbone_shows_its_neighbors() -> None:
    card = card_of(BACKBONE)
    assert "k-nearest-neighbor top-1 80.0 % before, 75.0 % after pruning, on 40 images" in card
    assert "-5.0 (-12.0 to +1.0)" in card


def test_the_only_output_of_a_model_needs_no_name() -> None:
    outputs = {"predicted_depth": {"kind": "depth", "variance_share": {"mean": 1.25, "interval": [1.0, 1.5]}}}
    (figure,) = named_figures({"images": 3, "outputs": outputs})
    assert (figure.name, figure.text) == ("squared error over the variance", "1.25 (1 to 1.5)")


def test_a_figure_that_was_not_measured_has_no_row() -> None:
    assert named_figures({"images": 3, "top1": 0.5}) == []
    assert figure_rows({"dense": {"images": 3}}, ("dense", "pruned")) == []

"""The metadata of a card: known, plain values only; values that the Hub would refuse are refused."""

from typing import Any

import pytest
import torch

from hf_vbp.card.base_card import BaseCard
from hf_vbp.card.front_matter import to_yaml
from hf_vbp.card.metadata import card_metadata, check_metadata
from hf_vbp.card.render import make_facts
from hf_vbp.errors import ConfigurationError
from tests.hub.helpers import make_results
from tests.loopback_hub.card_rules import check_card


def metadata(existing: dict[str, Any] | None = None, base: BaseCard | None = None, **changes: Any) -> dict[str, Any]:
    facts = make_facts(make_results(**changes), repo_id="me/pruned-vit", base=base)
    data = card_metadata(facts, existing or {})
    return data


def test_unknown_values_are_left_out() -> None:
    data = metadata()
    assert not {"license", "datasets", "base_model_relation"} & set(data)
    assert data["base_model"] == "alice/base-vit"
    assert {"pruned", "hf_vbp", "custom_code"} <= set(data["tags"])


def test_license_and_data_sets_are_those_of_the_base_model() -> None:
    base = BaseCard.of({"license": "other", "license_name": "own", "datasets": "imagenet-1k"})
    data = metadata(base=base)
    assert (data["license"], data["license_name"], data["datasets"]) == ("other", "own", ["imagenet-1k"])
    assert BaseCard.of({}) == BaseCard()


def test_a_folder_as_base_model_is_left_out_with_a_remark() -> None:
    described = {"id": "vit", "source": "folder", "model_type": "vit", "architecture": "ViTForImageClassification"}
    facts = make_facts(make_results(base_model=described), repo_id="me/x")
    assert "base_model" not in card_metadata(facts, {})
    assert "loaded from a folder" in facts.remarks[0]
    named = make_facts(make_results(base_model=described), repo_id="me/x", base_model="facebook/deit-tiny")
    assert card_metadata(named, {})["base_model"] == "facebook/deit-tiny"
    for path in ("/home/me/vit", "./vit", "a/b/c"):
        with pytest.raises(ConfigurationError, match="id of a repository"):
            make_facts(make_results(), base_model=path)


def test_the_model_index_has_figures_of_this_model_only() -> None:
    data = metadata()
    (model,) = data["model-index"]
    (result,) = model["results"]
    assert [metric["value"] for metric in result["metrics"]] == [0.74, 0.96]
    assert result["dataset"] == {"name": "photos", "type": "image_folder", "split": "validation"}


def test_the_index_of_a_fine_tuned_model() -> None:
    evaluation = make_results()["evaluation"] | {"finetuned": {"images": 50, "top1": 0.8}}
    hub = {"source": "me/photos:small", "kind": "hub", "split": "test", "revision": "1234567", "images": 50}
    data = metadata(evaluation=evaluation, data={"evaluation": hub})
    assert data["base_model_relation"] == "finetune"
    (result,) = data["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == 0.8
    expected = {"name": "me/photos", "type": "me/photos", "config": "small", "split": "test", "revision": "1234567"}
    assert result["dataset"] == expected


def test_without_evaluation_there_is_no_index() -> None:
    data = metadata(evaluation={"dense": {"images": 5, "top1": 0.5}})
    assert not {"model-index", "metrics", "model_name"} & set(data)


def test_the_library_is_transformers_only_where_the_receipt_shows_it() -> None:
    assert metadata()["library_name"] == "transformers"
    assert metadata(receipt=[])["library_name"] == "hf_vbp"


def test_a_backbone_is_not_a_classifier() -> None:
    described = make_results()["base_model"] | {"architecture": "ViTModel"}
    data = metadata(base_model=described)
    assert data["pipeline_tag"] == "image-feature-extraction"
    assert "model-index" not in data


def test_keys_of_the_user_are_kept() -> None:
    data = metadata({"widget": [{"src": "a.jpg"}], "tags": ["mine", "pruned"], "license": "mit", "model-index": [1]})
    assert data["widget"] == [{"src": "a.jpg"}]
    assert data["tags"].count("pruned") == 1
    assert data["tags"][-1] == "mine"
    assert data["license"] == "mit"
    assert data["model-index"] != [1]


@pytest.mark.parametrize(
    "bad",
    [
        {"base_model": "/home/me/vit"},
        {"datasets": ["photos/of/mine"]},
        {"base_model_relation": "pruned"},
        {"tags": "pruned"},
        {"metrics": [1]},
        {"library_name": 3},
        {"value": float("nan")},
        {"model-index": [{"value": torch.tensor(0.5)}]},
    ],
)
def test_metadata_that_the_hub_refuses_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(bad)).replace("-", ".")):
        check_metadata(bad)


def test_the_loopback_hub_accepts_the_metadata() -> None:
    base = BaseCard(license="apache-2.0", datasets=("imagenet-1k",))
    facts = make_facts(make_results(), repo_id="me/pruned-vit", base=base)
    assert check_card(f"---\n{to_yaml(card_metadata(facts, {}))}\n---\n") == ([], [])

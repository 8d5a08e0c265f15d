"""Labels are matched by name or WordNet id, never by position in a listing."""

import json
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_vbp.data.labels import imagenet_wordnet_ids, label_ids
from hf_vbp.errors import DataError, LabelError

ANIMALS = {0: "tench, Tinca tinca", 1: "goldfish, Carassius auratus", 2: "great white shark, white shark"}


def imagenet_labels(**changes: str) -> dict[int, str]:
    labels = {index: f"thing {index}" for index in range(1000)}
    named = {1: "goldfish, Carassius auratus", 134: "crane", 517: "crane", 954: "banana"}
    return labels | named | {int(key[1:]): name for key, name in changes.items()}


def test_the_shipped_wordnet_ids_are_those_of_imagenet() -> None:
    ids = imagenet_wordnet_ids()
    assert len(set(ids)) == 1000
    assert list(ids) == sorted(ids)
    # Facts that everybody who works with ImageNet-1k knows: tench, goldfish, golden retriever, toilet tissue.
    assert [ids[0], ids[1], ids[207], ids[999]] == ["n01440764", "n01443537", "n02099601", "n15075141"]


@pytest.mark.parametrize(
    ("name", "label"),
    [("tench", 0), ("TINCA_tinca", 0), ("Tench, Tinca tinca", 0), ("great-white_shark", 2), ("  Goldfish ", 1)],
)
def test_names_match_without_case_underscores_and_by_synonym(name: str, label: int) -> None:
    assert label_ids([name], ANIMALS) == [label]


def test_keys_of_a_config_read_from_json_are_text() -> None:
    labels = json.loads(json.dumps(ANIMALS))
    assert label_ids(["goldfish", "tench"], labels) == [1, 0]


@given(st.lists(st.text(string.ascii_letters, min_size=1, max_size=8), min_size=1, max_size=8, unique_by=str.casefold))
def test_any_order_and_any_subset_of_folders_gives_the_models_ids(names: list[str]) -> None:
    labels = dict(enumerate(names))
    listing = sorted(names)[::2]
    assert label_ids(listing, labels) == [names.index(name) for name in listing]


def test_wordnet_ids_of_a_subset_are_not_numbered_by_folder() -> None:
    assert label_ids(["n01443537", "n15075141"], imagenet_labels()) == [1, 999]


def test_wordnet_ids_that_are_the_labels_themselves_match_as_names() -> None:
    assert label_ids(["n15075141"], {0: "n15075141", 1: "n01440764"}) == [0]


def test_wordnet_ids_are_refused_for_a_model_with_other_classes() -> None:
    with pytest.raises(LabelError, match=r"1 of 1 .*'n01443537'.* the model has 3; its labels are 'tench"):
        label_ids(["n01443537"], ANIMALS)
    with pytest.raises(LabelError, match="'n99999999'"):
        label_ids(["n01443537", "n99999999"], imagenet_labels())


def test_wordnet_ids_are_refused_for_imagenet_in_another_order() -> None:
    shifted = imagenet_labels(_1="something", _2="goldfish")
    with pytest.raises(LabelError, match=r"not in the order of ImageNet-1k \('goldfish' is label 2, not 1\)"):
        label_ids(["n01443537"], shifted)


def test_a_name_that_two_labels_share_is_refused() -> None:
    with pytest.raises(LabelError, match=r"'crane' may be any of the labels 134, 517"):
        label_ids(["banana", "crane"], imagenet_labels())


def test_a_full_listing_in_the_models_order_settles_shared_names() -> None:
    labels = {0: "crane, bird", 1: "dog", 2: "crane, machine"}
    assert label_ids(["crane", "dog", "crane"], labels) == [0, 1, 2]
    with pytest.raises(LabelError, match="'crane' may be any"):
        label_ids(["dog", "crane", "crane"], labels)


def test_the_whole_text_of_a_label_beats_a_synonym() -> None:
    assert label_ids(["crane"], {0: "crane, machine", 1: "crane"}) == [1]


def test_a_mismatch_lists_the_first_names_of_both_sides() -> None:
    with pytest.raises(LabelError) as caught:
        label_ids(["cat", "dog", "tench"], ANIMALS)
    message = str(caught.value)
    assert "2 of 3 classes of the data set ('cat', 'dog')" in message
    assert "'tench, Tinca tinca', 'goldfish, Carassius auratus'" in message
    assert isinstance(caught.value, DataError)


def test_placeholder_labels_are_named_as_such() -> None:
    with pytest.raises(LabelError, match="placeholders"):
        label_ids(["cat"], {0: "LABEL_0", 1: "LABEL_1"})


@pytest.mark.parametrize(("names", "labels"), [([], ANIMALS), (["cat"], {})])
def test_nothing_to_match_is_an_error(names: list[str], labels: dict[int, str]) -> None:
    with pytest.raises(LabelError, match="nothing to match"):
        label_ids(names, labels)


@pytest.mark.real
def test_every_imagenet_folder_matches_a_real_model(real_assets: Path) -> None:
    labels = json.loads((real_assets / "deit-tiny" / "config.json").read_text())["id2label"]
    assert label_ids(imagenet_wordnet_ids(), labels) == list(range(1000))

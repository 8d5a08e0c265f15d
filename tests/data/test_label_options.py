"""Labels given by the caller: class names of the model, maps from classes to labels, classes named by number."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from hf_vbp.data.label_files import read_label_map, read_model_labels
from hf_vbp.data.labels import label_ids
from hf_vbp.data.loading import load_images
from hf_vbp.errors import ConfigurationError, LabelError
from tests.conftest import make_model
from tests.data.helpers import (
    CLASSES,
    ID2LABEL,
    MODEL_ID,
    class_folder,
    dataset,
    flat_folder,
    labels,
    png,
    processor,
    shards,
)

PLACEHOLDERS = {index: f"LABEL_{index}" for index in range(3)}
NAMES = [ID2LABEL[index] for index in range(3)]


def folders(root: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        (root / name / "a.png").write_bytes(png(number))
    return root


@pytest.mark.parametrize("form", ["sequence", "mapping", "lines", "json", "json of ids"])
def test_names_of_the_models_classes_are_given(tmp_path: Path, form: str) -> None:
    file, given = tmp_path / "names", dict(enumerate(NAMES))
    text = {"lines": "\n".join(NAMES) + "\n\n", "json": json.dumps(NAMES), "json of ids": json.dumps(given)}.get(form)
    if text is not None:
        file.write_text(text)
    value: Any = {"sequence": NAMES, "mapping": given}.get(form, file)
    data = load_images(class_folder(tmp_path / "x"), processor(), id2label=PLACEHOLDERS, model_labels=value)
    assert labels(data) == [MODEL_ID[name] for name in CLASSES for _ in range(4)]
    model = make_model(num_labels=3, image_size=8, patch_size=4)
    data = load_images(tmp_path / "x", processor(), model=model, purpose="evaluation", model_labels=value)
    assert labels(data)[0] == MODEL_ID["cat"]
    # Calibration needs no labels, with any options.
    assert not load_images(tmp_path / "x", processor(), model=model, model_labels=value).labelled


def test_placeholders_are_an_error_that_names_both_ways_out(tmp_path: Path) -> None:
    with pytest.raises(
        LabelError, match=r"placeholders.*model_labels \(--model-labels FILE\).*label_map \(--label-map"
    ):
        load_images(class_folder(tmp_path), processor(), id2label=PLACEHOLDERS)


@pytest.mark.parametrize("form", ["mapping", "tabs", "json"])
def test_classes_are_mapped_to_labels_and_ids(tmp_path: Path, form: str) -> None:
    mapped: dict[str, str | int] = {"Tabby": "cat", "hound": 2}
    file = tmp_path / "map"
    file.write_text(json.dumps(mapped) if form == "json" else "Tabby\tcat\n\nhound\t2\n")
    value: Any = mapped if form == "mapping" else file
    folder = folders(tmp_path / "x", ["hound", "owl", "tabby"])
    assert labels(load_images(folder, processor(), id2label=ID2LABEL, label_map=value)) == [2, 0, 1]


def test_numbers_and_streams_are_mapped_too(tmp_path: Path) -> None:
    plain = dataset(3).remove_columns("label").add_column("label", [7, 8, 0])
    data = load_images(plain, processor(), id2label=ID2LABEL, label_map={7: "dog", 8: "owl"})
    assert labels(data) == [2, 0, 0]
    source = str(shards(tmp_path, sizes=(3,), extension="json"))
    options: dict[str, Any] = {"label_column": "json.name", "label_map": {"dog": 0}}
    assert labels(load_images(source, processor(), id2label=ID2LABEL, **options)) == [1, 0, 0]
    assert labels(load_images(dataset(3), processor(), id2label=ID2LABEL, label_map={"cat": "owl"})) == [0, 2, 0]


@pytest.mark.parametrize(
    ("mapped", "message"),
    [
        ({"cat": "lynx"}, r"label_map names the label 'lynx' for the class 'cat'"),
        ({"cat": 3}, r"the id 3 for the class 'cat', but the model has 3 classes"),
        ({"cat": -1}, "the id -1"),
        (
            {"lynx": "owl"},
            r"label_map names none of the classes of .*: it has 'lynx', the data set 'cat', 'dog', 'owl'",
        ),
        ({}, "expected a map from class to label"),
        ({"cat": None}, "gives None for the class 'cat'"),
        ({"cat": True}, "gives True"),
    ],
)
def test_bad_maps(tmp_path: Path, mapped: Any, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        load_images(class_folder(tmp_path), processor(), id2label=ID2LABEL, label_map=mapped)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat\n\ndog", "holds '' for class 1"),
        ("", "holds '' for class 0"),
        ("cat\ndog", "holds 2 names, but the model has 3 classes"),
        ("[", "is not valid JSON"),
        ("[1, 2, 3]", "holds 1 for class 0"),
        ('{"0": "a", "2": "b"}', "keys are not the ids 0 to 1"),
        (b"\xff", "cannot be read .*UTF-8"),
        (None, "there is no such file"),
    ],
)
def test_bad_files_of_names(tmp_path: Path, text: str | bytes | None, message: str) -> None:
    file = tmp_path / "names"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(LabelError, match=f"model_labels {file}.*{message}"):
        read_model_labels(file, 3)


def test_bad_files_of_maps(tmp_path: Path) -> None:
    file = tmp_path / "map"
    for text, message in (("cat dog", "no tab in line 1"), ("[1]", "holds list"), ("{", "not valid JSON")):
        file.write_text(text)
        with pytest.raises(LabelError, match=f"label_map {file} .*{message}"):
            read_label_map(file)


@pytest.mark.parametrize("id2label", [{n: f"kind {n}" for n in range(12)}, {n: f"LABEL_{n}" for n in range(12)}])
def test_folders_named_by_number_are_ids_by_value(tmp_path: Path, id2label: dict[int, str]) -> None:
    names = [str(number) for number in range(12)]
    data = load_images(folders(tmp_path, names), processor(), id2label=id2label)
    assert labels(data) == [int(name) for name in sorted(names)]
    assert data.provenance["labels"] == "names as ids"
    assert (
        data.note == f"The classes '0' to '11' of {tmp_path.parent.name}/{tmp_path.name} are read as ids of the model."
    )
    data = load_images(
        tmp_path, processor(), id2label=id2label, class_names=[id2label[n] for n in reversed(range(12))]
    )
    assert labels(data) == [11 - int(name) for name in sorted(names)]
    assert data.provenance["labels"] == "numbers of class_names"


def test_padded_numbers_and_a_subset(tmp_path: Path) -> None:
    id2label = {n: f"kind {n}" for n in range(12)}
    assert labels(load_images(folders(tmp_path, ["003", "011"]), processor(), id2label=id2label)) == [3, 11]


@pytest.mark.parametrize(
    ("names", "id2label"),
    [
        (["0", "1", "12"], {n: f"kind {n}" for n in range(12)}),
        (["0", "cat"], {n: f"kind {n}" for n in range(12)}),
        (["1", "01"], {n: f"kind {n}" for n in range(12)}),
        (["0", "1"], {0: "1", 1: "2", 2: "3"}),
        (["9" * 5000], {0: "cat"}),
    ],
)
def test_numbers_that_may_be_something_else_are_not_guessed(names: list[str], id2label: dict[int, str]) -> None:
    with pytest.raises(LabelError, match="have no label of that name"):
        label_ids(names, id2label)


def test_labels_that_are_numbers_match_by_name() -> None:
    assert label_ids(["1", "3"], {0: "1", 1: "2", 2: "3"}) == [0, 2]


def test_names_match_in_every_form_of_unicode(tmp_path: Path) -> None:
    names = ["crêpe", "dog", "naïve bear"]
    for form in ("NFC", "NFD"):
        folder = folders(tmp_path / form, [unicodedata.normalize(form, name) for name in names])
        for other in ("NFC", "NFD"):
            id2label = {index: unicodedata.normalize(other, name) for index, name in enumerate(names)}
            assert labels(load_images(folder, processor(), id2label=id2label)) == [0, 1, 2]


def test_a_class_of_many_folders_is_counted_right(tmp_path: Path) -> None:
    folder = folders(tmp_path, [f"class {number}" for number in range(10)])
    id2label = {number: f"class {number}" for number in range(1, 10)}
    for options in ({}, {"class_names": [f"class {number}" for number in range(1, 10)]}):
        with pytest.raises(LabelError, match=r"1 of (10|1) classes of the data set \('class 0'\)") as caught:
            load_images(folder, processor(), id2label=id2label, **options)  # type: ignore[arg-type]
        assert "1 of 10" in str(caught.value)


def test_labels_of_the_data_are_numbered_in_its_order(tmp_path: Path) -> None:
    folder = class_folder(tmp_path / "x")
    # A backbone has placeholder classes, with which nothing would match.
    backbone = make_model("vit-backbone", image_size=8, patch_size=4)
    data = load_images(folder, processor(), model=backbone, labels="data", purpose="evaluation")
    order = sorted(CLASSES)
    assert data.class_names == tuple(order)
    assert labels(data) == [order.index(name) for name in order for _ in range(4)]
    # Other images of some of these classes, by name.
    some = load_images(folders(tmp_path / "y", [order[-1]]), processor(), id2label=dict(enumerate(order)))
    assert labels(some) == [len(order) - 1]
    assert some.class_names == tuple(order)
    named = load_images(dataset(), processor(), labels="data")
    assert named.labelled
    assert set(labels(named)) <= set(range(len(named.class_names or ())))


def test_labels_that_are_not_wanted_are_not_read(tmp_path: Path) -> None:
    model = make_model(num_labels=3, image_size=8, patch_size=4)
    data = load_images(class_folder(tmp_path / "x"), processor(), model=model, labels="none", purpose="evaluation")
    assert (data.labelled, data.class_names) == (False, None)
    assert set(next(iter(data))) == {"pixel_values"}
    data = load_images(flat_folder(tmp_path / "flat"), processor(), labels="data")
    assert (data.labelled, data.class_names) == (False, None)


def test_labels_of_the_data_and_of_a_model_at_once_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match='which labels="data" does not use: leave them out'):
        load_images(class_folder(tmp_path / "x"), processor(), labels="data", id2label=ID2LABEL)
    with pytest.raises(ConfigurationError, match=r"""labels is 'own': it must be "model", "data" or "none"."""):
        load_images(tmp_path / "x", processor(), labels="own")  # type: ignore[arg-type]

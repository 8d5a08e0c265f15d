"""Data sets of the datasets library: as objects, from a folder of Parquet files, and as shards."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hf_vbp.data.decoding import UnreadableImageError
from hf_vbp.data.hub import find_shards
from hf_vbp.data.loading import load_images
from hf_vbp.errors import ConfigurationError, DataError, LabelError
from tests.data.helpers import CLASSES, ID2LABEL, MODEL_ID, dataset, labels, numbers, png, processor, shards


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the Hub would serve it: Parquet files of two splits."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    # A shuffled stream of Parquet files sleeps for 5 seconds at its end.
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)
    folder = tmp_path / "pets"
    (folder / "data").mkdir(parents=True)
    dataset(12).to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    dataset(6).to_parquet(folder / "data" / "test-00000-of-00001.parquet")
    return folder


def test_class_names_of_a_dataset_are_matched() -> None:
    data = load_images(dataset(), processor(), id2label=ID2LABEL, batch_size=5)
    assert numbers(data) == list(range(12))
    assert labels(data) == [MODEL_ID[CLASSES[i % 3]] for i in range(12)]
    assert data.images == 12
    assert data.provenance["kind"] == "dataset"
    assert data.provenance["labels"] == "names"


def test_classes_that_do_not_match_are_refused() -> None:
    with pytest.raises(LabelError, match=r"'cat', 'dog', 'owl'.*'tench'"):
        load_images(dataset(), processor(), id2label={0: "tench"})


def test_text_labels_are_matched_before_any_work() -> None:
    named = dataset().remove_columns("label").add_column("label", [CLASSES[i % 3] for i in range(12)])
    assert labels(load_images(named, processor(), id2label=ID2LABEL))[:3] == [1, 2, 0]
    with pytest.raises(LabelError, match=r"'cat', 'dog', 'owl'"):
        load_images(named, processor(), id2label={0: "tench"})


def test_numbers_without_names_are_the_models_ids_and_must_be_within() -> None:
    plain = dataset(3).remove_columns("label").add_column("label", [2, 0, 1])
    data = load_images(plain, processor(), id2label=ID2LABEL)
    assert labels(data) == [2, 0, 1]
    assert data.provenance["labels"] == "as given"
    assert labels(load_images(plain, processor(), id2label=ID2LABEL, class_names=CLASSES)) == [0, 1, 2]
    hidden = dataset(3).remove_columns("label").add_column("label", [-1, -1, -1])
    with pytest.raises(LabelError, match=r"row 0 has the label -1, but there are 3 classes"):
        load_images(hidden, processor(), id2label=ID2LABEL)


def test_columns_are_found_or_named() -> None:
    data = dataset().rename_columns({"image": "img", "label": "fine_label"})
    assert labels(load_images(data, processor(), id2label=ID2LABEL))[:3] == [1, 2, 0]
    two = data.add_column("img2", [{"bytes": png(9), "path": None}] * 12).cast_column("img2", data.features["img"])
    assert numbers(load_images(two, processor(), image_column="img2")) == [9] * 12
    assert numbers(load_images(two, processor())) == list(range(12))  # "img" is the usual name
    unusual = two.rename_column("img", "left").rename_column("img2", "right")
    with pytest.raises(DataError, match=r"more than one \(left, right\).*image_column"):
        load_images(unusual, processor())
    for option in ("image_column", "label_column"):
        with pytest.raises(DataError, match=r"no column 'nope': its columns are img, fine_label"):
            load_images(data, processor(), **{option: "nope"})
    with pytest.raises(DataError, match="found none among label"):
        load_images(dataset().remove_columns("image"), processor())
    with pytest.raises(DataError, match=r"has no labels.*label_column"):
        load_images(dataset().remove_columns("label"), processor(), id2label=ID2LABEL, require_labels=True)


def test_a_format_set_for_training_is_undone() -> None:
    data = dataset().with_transform(lambda rows: {"x": [0] * len(rows["image"])})
    assert numbers(load_images(data, processor())) == list(range(12))


def test_rows_that_are_no_images_are_named_by_their_row() -> None:
    import datasets

    rows = {"image": [{"bytes": png(0), "path": None}, {"bytes": b"no", "path": "b.png"}]}
    data = datasets.Dataset.from_dict(rows, features=datasets.Features({"image": datasets.Image()}))
    with pytest.raises(UnreadableImageError, match=r"row 1 \(b.png\) cannot be read"):
        list(load_images(data, processor()).loader)
    kept = load_images(data, processor(), on_bad_image="skip")
    assert numbers(kept) == [0]
    assert len(kept.bad_images) == 1


@pytest.mark.parametrize("num_workers", [0, 2])
def test_streams_give_every_image_once(num_workers: int) -> None:
    stream = dataset().to_iterable_dataset(num_shards=3)
    data = load_images(stream, processor(), id2label=ID2LABEL, batch_size=2, num_workers=num_workers)
    assert sorted(zip(numbers(data), labels(data), strict=True)) == [
        (number, MODEL_ID[CLASSES[number % 3]]) for number in range(12)
    ]


def test_streams_are_shuffled_and_cut_with_the_seed_on_record() -> None:
    stream = dataset(40).to_iterable_dataset(num_shards=2)
    first, second = (load_images(stream, processor(), limit=10) for _ in range(2))
    assert len(set(numbers(first))) == 10
    assert numbers(first) == numbers(second) != list(range(10))
    assert (first.provenance["seed"], first.provenance["shuffle_buffer"]) == (0, 1000)
    shared = load_images(stream, processor(), limit=10, num_workers=2, batch_size=2)
    assert len(set(numbers(shared))) == 10


def test_a_stream_is_reshuffled_only_when_that_is_asked_for() -> None:
    from accelerate import Accelerator

    def opened(**options: Any) -> Any:
        stream = dataset(40).to_iterable_dataset(num_shards=2)
        return load_images(stream, processor(), **options)

    data = opened(limit=10, seed=0)
    first = numbers(data)
    # accelerate tells whatever has set_epoch before each pass; what is evaluated twice must be the same images.
    prepared = Accelerator(cpu=True).prepare(data.loader)
    assert [numbers(prepared) for _ in range(2)] == [first, first]
    whole = opened(seed=0)
    orders = []
    for epoch in (0, 1, 1, 0):
        whole.loader.dataset.reshuffle(epoch)
        orders.append(numbers(whole))
    assert orders[0] == orders[3] != orders[1] == orders[2]
    assert sorted(orders[1]) == list(range(40))


def test_a_stream_that_declares_nothing_is_asked_for_an_example() -> None:
    import datasets

    def rows() -> Iterator[dict[str, Any]]:
        for number in range(3):
            yield {"image": {"bytes": png(number), "path": None}, "label": number}

    stream = datasets.IterableDataset.from_generator(rows)
    assert stream.features is None
    data = load_images(stream, processor(), id2label=ID2LABEL)
    assert (numbers(data), labels(data)) == ([0, 1, 2], [0, 1, 2])
    assert data.images is None
    with pytest.raises(DataError, match="is empty"):
        load_images(datasets.IterableDataset.from_generator(lambda: iter(())), processor())


def test_an_empty_dataset_and_what_is_no_source() -> None:
    import datasets

    with pytest.raises(DataError, match="is empty"):
        load_images(dataset(0), processor())
    with pytest.raises(DataError, match="has the splits train, test"):
        load_images(datasets.DatasetDict({"train": dataset(), "test": dataset()}), processor())
    for source in (3, {"pixel_values": 1}, None):
        with pytest.raises(DataError, match="is no source of images"):
            load_images(source, processor())


@pytest.mark.parametrize("streaming", [False, True])
def test_a_repository_is_read_with_the_split_that_suits(repository: Path, streaming: bool) -> None:
    calibration = load_images(str(repository), processor(), id2label=ID2LABEL, streaming=streaming)
    assert calibration.provenance["split"] == "train"
    assert numbers(calibration) == list(range(12))
    evaluation = load_images(str(repository), processor(), streaming=streaming, purpose="evaluation", limit=4)
    assert evaluation.provenance["split"] == "test"
    assert len(set(numbers(evaluation))) == 4
    assert evaluation.provenance["source"] == "pets"
    with pytest.raises(DataError, match="no split 'validation': its splits are t"):
        load_images(str(repository), processor(), split="validation", streaming=streaming)
    assert load_images(str(repository), processor(), split="train[:3]").images == 3


def test_a_split_that_cannot_be_told_must_be_named(repository: Path) -> None:
    (repository / "data" / "train-00000-of-00001.parquet").unlink()
    dataset(3).to_parquet(repository / "data" / "extra-00000-of-00001.parquet")
    with pytest.raises(ConfigurationError, match="Which split of the data set"):
        load_images(str(repository), processor())


@pytest.mark.parametrize("name", ["nobody/nothing", "nobody/nothing:config", "nothing"])
def test_a_name_that_the_hub_does_not_know(name: str) -> None:
    with pytest.raises(DataError, match="nothing cannot be fetched from the Hub, and there is no such folder"):
        load_images(name, processor())


@pytest.mark.parametrize("pattern", ["", "part-*.tar", "part-{000..001}.tar", "part-00{0,1}.tar"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_shards_are_read_by_folder_or_pattern(tmp_path: Path, pattern: str, num_workers: int) -> None:
    shards(tmp_path)
    source = str(tmp_path / pattern) if pattern else str(tmp_path)
    data = load_images(source, processor(), id2label=ID2LABEL, class_names=CLASSES, num_workers=num_workers)
    assert sorted(zip(numbers(data), labels(data), strict=True)) == [
        (number, MODEL_ID[CLASSES[number % 3]]) for number in range(9)
    ]
    assert data.provenance["kind"] == "webdataset"


def test_labels_within_a_json_of_shards(tmp_path: Path) -> None:
    shards(tmp_path, extension="json")
    data = load_images(str(tmp_path), processor(), id2label=ID2LABEL, label_column="json.name")
    assert labels(data)[:3] == [1, 2, 0]


def test_a_name_met_on_the_way_that_the_model_lacks(tmp_path: Path) -> None:
    shards(tmp_path, extension="json")
    data = load_images(str(tmp_path), processor(), id2label={0: "cat"}, label_column="json.name", num_workers=1)
    with pytest.raises(LabelError, match=r"^In .*1 of 1 classes of the data set .'dog'") as caught:
        list(data.loader)
    assert "\n" not in str(caught.value)


def test_bad_shards(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No tar shards match"):
        load_images(str(tmp_path / "a-*.tar"), processor())
    (tmp_path / "a-0.tar").write_bytes(b"no tar at all")
    with pytest.raises(DataError, match="cannot be read as WebDataset"):
        load_images(str(tmp_path / "a-0.tar"), processor())
    with pytest.raises(DataError, match="have no splits"):
        load_images(str(tmp_path / "a-0.tar"), processor(), split="train")


def test_shards_are_found_in_order(tmp_path: Path) -> None:
    shards(tmp_path, sizes=(1, 1, 1))
    assert [path.name for path in find_shards(str(tmp_path))] == ["part-000.tar", "part-001.tar", "part-002.tar"]
    assert len(find_shards(str(tmp_path / "part-{000..001}.tar"))) == 2


@pytest.mark.parametrize(
    "name", ["{0..300000000}", "{0..9999}{0..9999}", f"{{0..{'9' * 5000}}}", "{a}" * 2000, "{5..1}"]
)
def test_patterns_that_name_too_many_shards_are_refused_at_once(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"shards|digits|braces|empty range") as raised:
        find_shards(str(tmp_path / f"{name}.tar"))
    assert len(str(raised.value)) < 400

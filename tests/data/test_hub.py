"""Data sets of the datasets library: as objects, from a folder of Parquet files, and as shards."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hf_vbp.data.decoding import UnreadableImageError
from hf_vbp.data.loading import load_images
from hf_vbp.errors import ConfigurationError, DataError, LabelError
from tests.conftest import make_model
from tests.data.helpers import CLASSES, ID2LABEL, MODEL_ID, dataset, labels, numbers, picture, png, processor


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
    # accelerate calls set_epoch, where it exists, before each pass; two evaluations must see the same images.
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


def test_an_empty_dataset_and_objects_that_are_not_sources() -> None:
    import datasets

    with pytest.raises(DataError, match="is empty"):
        load_images(dataset(0), processor())
    with pytest.raises(DataError, match="has the splits train, test"):
        load_images(datasets.DatasetDict({"train": dataset(), "test": dataset()}), processor())
    for source in (3, {"pixel_values": 1}, None):
        with pytest.raises(DataError, match="is not a source of images"):
            load_images(source, processor())


def test_a_split_of_a_dictionary_is_taken_by_its_name() -> None:
    import datasets

    both = datasets.DatasetDict({"train": dataset(), "test": dataset(3)})
    data = load_images(both, processor(), split="test", id2label=ID2LABEL)
    assert (data.images, data.provenance["split"], labels(data)) == (3, "test", [1, 2, 0])
    streams = datasets.IterableDatasetDict({name: part.to_iterable_dataset() for name, part in both.items()})
    assert numbers(load_images(streams, processor(), split="test")) == [0, 1, 2]
    with pytest.raises(DataError, match="no split 'val': its splits are train, test"):
        load_images(both, processor(), split="val")


def test_a_split_that_a_source_does_not_have_is_not_ignored() -> None:
    import datasets

    with pytest.raises(DataError, match="is a single split without a name: give it without split='test'"):
        load_images(dataset(), processor(), split="test")
    named = datasets.Dataset(dataset().data, split=datasets.NamedSplit("train"))
    assert load_images(named, processor(), split="train").provenance["split"] == "train"
    with pytest.raises(DataError, match="is the split 'train', not 'test'"):
        load_images(named, processor(), split="test")
    with pytest.raises(DataError, match="A list has no splits"):
        load_images([{"pixel_values": 1}], split="test")


@pytest.mark.parametrize("kind", ["map", "stream", "torch"])
def test_pixel_values_of_a_data_set_are_taken_as_they_are(kind: str) -> None:
    import datasets

    pixels = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    features = datasets.Features(
        {"pixel_values": datasets.Array3D((3, 8, 8), "float32"), "label": datasets.ClassLabel(names=list(CLASSES))}
    )
    data = datasets.Dataset.from_dict({"pixel_values": pixels.numpy(), "label": [0, 1, 2] * 2}, features=features)
    data = {"map": data, "torch": data.with_format("torch"), "stream": data.to_iterable_dataset()}[kind]
    found = load_images(data, id2label=ID2LABEL, batch_size=4)
    assert torch.equal(torch.cat([batch["pixel_values"] for batch in found]), pixels)
    assert labels(found) == [1, 2, 0] * 2
    assert found.provenance["processor"] == {"shape": [3, 8, 8]}
    if kind == "map":
        assert len(next(iter(load_images(data, limit=4)))["pixel_values"]) == 4


def test_pixel_values_of_another_shape_are_refused() -> None:
    import datasets

    flat = datasets.Dataset.from_dict({"pixel_values": [[0.5, 0.5]]})
    with pytest.raises(DataError, match=r"row 0 have the shape \(2,\); expected \(channels, height, width\)"):
        load_images(flat)
    text = datasets.Dataset.from_dict({"pixel_values": ["a.png"]})
    with pytest.raises(DataError, match=r"The pixel_values of .*row 0 are .*not numbers"):
        load_images(text)


def test_images_in_a_column_of_arrays() -> None:
    import datasets

    rows = np.stack([np.asarray(picture(number)) for number in range(3)])
    features = datasets.Features({"image": datasets.Array3D((8, 8, 3), "uint8")})
    assert numbers(load_images(datasets.Dataset.from_dict({"image": rows}, features=features), processor())) == [
        0,
        1,
        2,
    ]
    floats = datasets.Dataset.from_dict({"image": (rows / 255).tolist()})
    with pytest.raises(DataError, match=r"an array of float64 .* is not an image; expected"):
        load_images(floats, processor())


@pytest.mark.parametrize("kind", ["text", "number", "class"])
def test_missing_labels_are_found_before_any_work(kind: str) -> None:
    import datasets

    values: list[Any] = ["cat", "dog", None] if kind == "text" else [0, 1, None]
    feature = {
        "text": datasets.Value("string"),
        "number": datasets.Value("int64"),
        "class": datasets.ClassLabel(names=list(CLASSES)),
    }[kind]
    features = datasets.Features({"image": datasets.Image(), "label": feature})
    rows = {"image": [{"bytes": png(i), "path": None} for i in range(3)], "label": values}
    data = datasets.Dataset.from_dict(rows, features=features)
    with pytest.raises(LabelError, match=r"some labels are missing \(null\): remove these rows"):
        load_images(data, processor(), id2label=ID2LABEL)
    assert numbers(load_images(data, processor())) == [0, 1, 2]
    assert labels(load_images(data.select([0, 1]), processor(), id2label=ID2LABEL)) == (
        [0, 1] if kind == "number" else [1, 2]
    )
    stream = load_images(data.to_iterable_dataset(), processor(), id2label=ID2LABEL)
    with pytest.raises(LabelError, match="row 2 has no label"):
        list(stream)


def test_a_saved_data_set_is_read_once_without_its_cache(tmp_path: Path) -> None:
    import datasets

    folder = tmp_path / "run[1]" / "saved"
    dataset(12).save_to_disk(folder)
    datasets.load_from_disk(folder).map(lambda row: row)
    assert len(list(folder.glob("cache-*.arrow"))) == 1
    data = load_images(folder, processor(), id2label=ID2LABEL)
    assert (numbers(data), labels(data)) == (list(range(12)), [1, 2, 0] * 4)
    assert data.provenance["source"] == "run[1]/saved"
    assert data.provenance["kind"] == "saved_dataset"
    with pytest.raises(DataError, match="is a single split without a name"):
        load_images(folder, processor(), split="test")
    (folder / "state.json").write_text("{")
    with pytest.raises(DataError, match="written by save_to_disk, cannot be read"):
        load_images(folder, processor())


def test_a_saved_dictionary_is_read_by_split(tmp_path: Path) -> None:
    import datasets

    datasets.DatasetDict(train=dataset(12), test=dataset(3)).save_to_disk(tmp_path / "saved")
    assert load_images(tmp_path / "saved", processor()).images == 12
    assert load_images(tmp_path / "saved", processor(), purpose="evaluation").images == 3
    assert load_images(tmp_path / "saved", processor(), split="test").images == 3
    for split in ("val", "test[:1]"):
        with pytest.raises(DataError, match="no split"):
            load_images(tmp_path / "saved", processor(), split=split)


def test_a_stream_that_breaks_is_one_sentence() -> None:
    import datasets

    def rows() -> Iterator[dict[str, Any]]:
        yield {"image": {"bytes": png(0), "path": None}}
        raise ConnectionError("the server hung up\nand more")

    data = load_images(datasets.IterableDataset.from_generator(rows), processor())
    with pytest.raises(DataError, match=r"cannot be read any further \(the server hung up and more\)"):
        list(data)


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


def test_token_and_cache_are_those_of_the_argument(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    tokens: list[Any] = []
    real = datasets.load_dataset_builder

    def load(*arguments: Any, token: Any, **options: Any) -> Any:
        tokens.append(token)
        return real(*arguments, **options)

    monkeypatch.setattr(datasets, "load_dataset_builder", load)
    chosen = tmp_path / "chosen"
    assert load_images(str(repository), processor(), token="hf_x", cache_dir=chosen).images == 12
    assert tokens == ["hf_x"]
    assert list(chosen.rglob("*.arrow"))
    assert not list((tmp_path / "cache").rglob("*.arrow"))


def test_the_processor_is_read_with_token_and_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[Any] = []

    def load(name: str, **options: Any) -> Any:
        seen.append((name, options))
        return processor()

    monkeypatch.setattr("hf_vbp.data.loading.load_processor", load)
    model = make_model(image_size=8)
    model.name_or_path = "someone/model"
    load_images(dataset(), model=model, token="hf_x", cache_dir=tmp_path)
    assert seen == [("someone/model", {"token": "hf_x", "cache_dir": str(tmp_path)})]


def test_an_ambiguous_split_must_be_named(repository: Path) -> None:
    (repository / "data" / "train-00000-of-00001.parquet").unlink()
    dataset(3).to_parquet(repository / "data" / "extra-00000-of-00001.parquet")
    with pytest.raises(ConfigurationError, match=r"The split of the data set .* cannot be determined"):
        load_images(str(repository), processor())


@pytest.mark.parametrize("name", ["nobody/nothing", "nobody/nothing:config", "nothing"])
def test_a_name_that_the_hub_does_not_know(name: str) -> None:
    with pytest.raises(DataError, match="nothing cannot be fetched from the Hub, and there is no such folder"):
        load_images(name, processor())


@pytest.mark.parametrize("layout", ["data", ""])
@pytest.mark.parametrize("name", ["pets [1]", "all*{a,b}/[x]?"])
def test_brackets_in_the_path_of_parquet_files(repository: Path, layout: str, name: str) -> None:
    folder = repository.parent / name
    (folder / layout).mkdir(parents=True)
    for file in sorted((repository / "data").iterdir()):
        file.rename(folder / layout / file.name)
    train, test = (load_images(folder, processor(), id2label=ID2LABEL, split=split) for split in ("train", "test"))
    assert (train.images, test.images) == (12, 6)
    assert numbers(train) == list(range(12))
    assert labels(test) == [MODEL_ID[CLASSES[i % 3]] for i in range(6)]
    assert train.provenance["source"] == folder.name
    (folder / "README.md").write_text("---\nconfigs:\n- config_name: small\n  data_files: data/train-*\n---\n")
    with pytest.raises(DataError, match="has a card that describes its files"):
        load_images(folder, processor())

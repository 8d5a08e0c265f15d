"""Image folders."""

import json
import os
from pathlib import Path

import pytest
import torch

from hf_vbp.data.decoding import UnreadableImageError
from hf_vbp.data.loading import load_images
from hf_vbp.errors import ConfigurationError, DataError, LabelError
from tests.data.helpers import CLASSES, ID2LABEL, MODEL_ID, class_folder, flat_folder, labels, numbers, png, processor


def test_labels_are_the_models_not_the_order_of_the_folders(tmp_path: Path) -> None:
    data = load_images(class_folder(tmp_path / "photos"), processor(), id2label=ID2LABEL, batch_size=5)
    batch = next(iter(data.loader))
    assert batch["pixel_values"].shape == (5, 3, 8, 8)
    assert (batch["pixel_values"].dtype, batch["labels"].dtype) == (torch.float32, torch.int64)
    assert numbers(data) == list(range(12))
    assert labels(data) == [MODEL_ID[name] for name in CLASSES for _ in range(4)]
    assert data.images == 12
    assert data.labelled


def test_without_the_models_labels_there_are_none(tmp_path: Path) -> None:
    data = load_images(class_folder(tmp_path), processor())
    assert set(next(iter(data.loader))) == {"pixel_values"}
    assert not data.labelled


def test_a_flat_folder_has_images_but_no_labels(tmp_path: Path) -> None:
    data = load_images(str(flat_folder(tmp_path)), processor(), id2label=ID2LABEL)
    assert numbers(data) == [0, 1, 2, 3, 4]
    assert not data.labelled
    with pytest.raises(DataError, match=r"has no labels.*one folder per class"):
        load_images(tmp_path, processor(), id2label=ID2LABEL, require_labels=True)


def test_a_limit_draws_from_all_classes_and_the_seed_is_recorded(tmp_path: Path) -> None:
    folder = class_folder(tmp_path, per_class=20)
    data = load_images(folder, processor(), id2label=ID2LABEL, limit=12)
    assert (data.images, len(numbers(data))) == (12, 12)
    assert set(labels(data)) == {0, 1, 2}
    assert (data.provenance["limit"], data.provenance["seed"], data.provenance["available"]) == (12, 0, 60)
    again, other = (load_images(folder, processor(), limit=12, seed=seed) for seed in (0, 1))
    assert numbers(data) == numbers(again) != numbers(other)
    more = load_images(folder, processor(), limit=30)
    assert numbers(more)[:12] == numbers(data)  # a larger sample holds the smaller


def test_a_seed_without_a_limit_shuffles_all(tmp_path: Path) -> None:
    data = load_images(class_folder(tmp_path), processor(), seed=3)
    assert numbers(data) != list(range(12))
    assert sorted(numbers(data)) == list(range(12))


@pytest.mark.parametrize("on_bad_image", ["error", "skip"])
def test_workers_give_every_image_once(tmp_path: Path, on_bad_image: str) -> None:
    folder = class_folder(tmp_path)
    data = load_images(folder, processor(), num_workers=2, batch_size=2, on_bad_image=on_bad_image)
    assert sorted(numbers(data)) == list(range(12))


def test_a_file_that_is_no_image_is_named_before_any_work(tmp_path: Path) -> None:
    class_folder(tmp_path)
    (tmp_path / "dog" / "2.png").write_text("not an image")
    way_out = r"on_bad_image=\"skip\" \(--on-bad-image skip\)"
    with pytest.raises(UnreadableImageError, match=rf"dog/2.png cannot be read.*{way_out}"):
        load_images(tmp_path, processor())


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_image_cut_short_is_named_when_it_is_met(tmp_path: Path, num_workers: int) -> None:
    from tests.data.helpers import noise

    flat_folder(tmp_path)
    from PIL import Image

    Image.fromarray(noise(0)).save(tmp_path / "004.png")
    data = (tmp_path / "004.png").read_bytes()
    (tmp_path / "004.png").write_bytes(data[: len(data) // 2])
    opened = load_images(tmp_path, processor(), num_workers=num_workers, batch_size=2)
    with pytest.raises(DataError) as caught:
        list(opened.loader)
    assert str(caught.value).startswith(f"{tmp_path / '004.png'} cannot be read as an image")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_bad_images_can_be_left_out_and_are_counted(tmp_path: Path, num_workers: int) -> None:
    class_folder(tmp_path)
    for name in ("cat/0.png", "owl/3.png"):
        (tmp_path / name).write_text("no")
    data = load_images(
        tmp_path, processor(), id2label=ID2LABEL, on_bad_image="skip", num_workers=num_workers, batch_size=4
    )
    for _ in range(2):
        assert sorted(numbers(data)) == list(range(1, 11))
    assert [bad.name for bad in data.bad_images] == [str(tmp_path / "cat" / "0.png"), str(tmp_path / "owl" / "3.png")]
    assert "cannot identify image file" in data.bad_images[0].reason


def test_nothing_but_bad_images_is_an_error_even_when_they_may_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no")
    with pytest.raises(DataError, match="no image that can be read"):
        load_images(tmp_path, processor(), on_bad_image="skip")


def test_provenance_is_json_without_the_location_of_the_folder(tmp_path: Path) -> None:
    folder = class_folder(tmp_path / "home" / "pets" / "train")
    data = load_images(folder, processor(), id2label=ID2LABEL)
    told = json.loads(json.dumps(data.provenance))
    assert told["source"] == "pets/train"
    assert str(tmp_path) not in json.dumps(told)
    assert {key: told[key] for key in ("kind", "images", "limit", "seed", "labels")} == {
        "kind": "image_folder",
        "images": 12,
        "limit": None,
        "seed": None,
        "labels": "names",
    }
    assert told["processor"]["backend"] == "pil"
    assert told["processor"]["shape"] == [3, 8, 8]


def test_the_fingerprint_follows_the_files(tmp_path: Path) -> None:
    one, two = class_folder(tmp_path / "a"), class_folder(tmp_path / "b")
    first, second = (load_images(folder, processor()).provenance["fingerprint"] for folder in (one, two))
    assert first == second
    (two / "dog" / "9.png").write_bytes(png(9))
    assert load_images(two, processor()).provenance["fingerprint"] != first


def test_hidden_files_and_others_are_passed_over(tmp_path: Path) -> None:
    class_folder(tmp_path)
    (tmp_path / "ATTRIBUTION.csv").write_text("who")
    (tmp_path / ".DS_Store").write_text("x")
    (tmp_path / "cat" / "._0.png").write_text("x")
    assert load_images(tmp_path, processor(), id2label=ID2LABEL, require_labels=True).images == 12


def test_images_beside_class_folders_leave_all_without_labels(tmp_path: Path) -> None:
    class_folder(tmp_path)
    (tmp_path / "loose.png").write_bytes(png(99))
    assert not load_images(tmp_path, processor(), id2label=ID2LABEL).labelled


def test_splits_are_sub_folders_and_must_be_named(tmp_path: Path) -> None:
    class_folder(tmp_path / "train")
    class_folder(tmp_path / "val", per_class=1)
    assert load_images(tmp_path, processor(), split="val").images == 3
    with pytest.raises(DataError, match="holds the splits train, val"):
        load_images(tmp_path, processor())
    with pytest.raises(DataError, match="no split 'test': its folders are train, val"):
        load_images(tmp_path, processor(), split="test")


@pytest.mark.parametrize(
    ("folders", "named"),
    [
        (["train", "val", "annotations"], "train, val"),
        (["data/train", "data/test"], "test, train"),
        (["cat/train", "cat/test", "dog/train"], "test, train"),
        (["train2017", "val2017"], "train2017, val2017"),
        (["training_set", "test_set"], "test_set, training_set"),
        (["Train/cat", "unlabeled"], "Train"),
        (["train"], "train"),
    ],
)
def test_splits_are_never_mixed_in_any_folder(tmp_path: Path, folders: list[str], named: str) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
        if folder != "annotations":
            (tmp_path / folder / "a.png").write_bytes(png(1))
    (tmp_path / "README.md").write_text("pets")
    for purpose in ("calibration", "evaluation"):
        with pytest.raises(DataError, match=f"holds the splits {named}: choose one for {purpose}"):
            load_images(tmp_path, processor(), purpose=purpose)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "names", [["aeroplane", "train", "tvmonitor"], ["bullet_train", "test_tube", "cat"], ["evals"]]
)
def test_classes_named_like_splits_are_classes(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(png(1))
    data = load_images(tmp_path, processor(), id2label=dict(enumerate(sorted(names))))
    assert labels(data) == list(range(len(names)))


def test_a_split_one_level_deeper_is_found_by_its_name(tmp_path: Path) -> None:
    class_folder(tmp_path / "data" / "train")
    class_folder(tmp_path / "data" / "test", per_class=1)
    for split in ("test", "data/test"):
        assert load_images(tmp_path, processor(), split=split, id2label=ID2LABEL).images == 3
    class_folder(tmp_path / "more" / "test")
    with pytest.raises(DataError, match=r"several folders 'test' \(data/test, more/test\)"):
        load_images(tmp_path, processor(), split="test")
    with pytest.raises(DataError, match=r"no split '\.\./x'"):
        load_images(tmp_path / "data", processor(), split="../x")


def test_links_without_a_target_are_bad_images(tmp_path: Path) -> None:
    class_folder(tmp_path)
    (tmp_path / "cat" / "gone.jpg").symlink_to("/nowhere/image.jpg")
    (tmp_path / "cat" / "self.jpg").symlink_to("self.jpg")
    (tmp_path / "cat" / "itself").symlink_to("itself")
    os.mkfifo(tmp_path / "cat" / "pipe.jpg")
    with pytest.raises(UnreadableImageError, match=r"cat/gone.jpg cannot be read"):
        load_images(tmp_path, processor())
    data = load_images(tmp_path, processor(), on_bad_image="skip")
    assert numbers(data) == list(range(12))
    assert [bad.name.rpartition("/")[2] for bad in data.bad_images] == ["gone.jpg", "pipe.jpg", "self.jpg"]


def test_a_link_back_is_refused_and_links_to_other_folders_are_followed(tmp_path: Path) -> None:
    class_folder(tmp_path / "pets")
    class_folder(tmp_path / "elsewhere" / "more", per_class=1)
    (tmp_path / "pets" / "cat" / "more").symlink_to(tmp_path / "elsewhere")
    assert load_images(tmp_path / "pets", processor()).images == 15
    (tmp_path / "pets" / "dog" / "back").symlink_to("..")
    with pytest.raises(DataError, match=r"dog/back is a link that refers to"):
        load_images(tmp_path / "pets", processor())


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path / "pets")
    os.makedirs(folder + b"/cat")
    for name, content in ((b"\xe9t\xe9.png", png(3)), (b"\xff.png", b"no")):
        Path(os.fsdecode(folder + b"/cat/" + name)).write_bytes(content)
    os.rename(folder, folder + b"\xff")
    pets = Path(os.fsdecode(folder + b"\xff"))
    with pytest.raises(UnreadableImageError, match="cannot be read") as caught:
        load_images(pets, processor())
    data = load_images(pets, processor(), on_bad_image="skip", id2label=ID2LABEL)
    assert (numbers(data), labels(data)) == ([3], [MODEL_ID["cat"]])
    shown = [str(caught.value), json.dumps(data.provenance, ensure_ascii=False), data.bad_images[0].name]
    assert all(text.encode() for text in shown)


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_folder(tmp_path)
    scandir = os.scandir

    def refused(path: str) -> object:
        # The superuser, who may run the tests, can read every folder.
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(
        DataError, match=r"cannot be read \(.*Permission denied: '.*dog'\): check the path and its perm"
    ):
        load_images(tmp_path, processor())


def table(folder: Path, kind: str, rows: list[tuple[str, object]], column: str = "label") -> None:
    if kind == "csv":
        lines = [f"file_name,{column}", *(f"{name},{label}" for name, label in rows)]
    else:
        lines = [json.dumps({"file_name": name, column: label}) for name, label in rows]
    (folder / f"metadata.{kind}").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_labels_are_read_from_a_table_next_to_the_images(tmp_path: Path, kind: str) -> None:
    flat_folder(tmp_path / "images", 3)
    table(tmp_path, kind, [("images/002.png", "owl"), ("images/000.png", "cat"), ("images/001.png", "dog")])
    data = load_images(tmp_path, processor(), id2label=ID2LABEL, require_labels=True)
    assert labels(data) == [MODEL_ID[name] for name in ("cat", "dog", "owl")]
    table(tmp_path, kind, [(f"images/00{n}.png", n) for n in range(3)], column="species")
    # Without a column named as labels are, the folders are the classes.
    with pytest.raises(LabelError, match=r"1 of 1 classes .*'images'"):
        load_images(tmp_path, processor(), id2label=ID2LABEL)
    data = load_images(tmp_path, processor(), id2label=ID2LABEL, label_column="species")
    assert (labels(data), data.provenance["labels"]) == (
        [0, 1, 2],
        "names as ids" if kind == "csv" else "as given",
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metadata.csv", "file_name,label\n000.png,cat\n", r"no label for 1 of 2 images \(first '001.png'\)"),
        ("metadata.csv", "file_name,label\n000.png,cat\n001.png,\n", r"no label for 1 of 2 images"),
        ("metadata.csv", "name,label\n000.png,cat\n", "no file_name in row 1"),
        ("metadata.jsonl", "{\n", "cannot be read as a table"),
        ("metadata.jsonl", "[1]\n", "a line that is not an object"),
        ("metadata.csv", b"file_name,label\n\xff.png,cat\n", "cannot be read as a table"),
    ],
)
def test_bad_tables(tmp_path: Path, name: str, text: str | bytes, message: str) -> None:
    flat_folder(tmp_path, 2)
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message):
        load_images(tmp_path, processor(), id2label=ID2LABEL)
    # Calibration never looks at labels.
    assert load_images(tmp_path, processor()).images == 2
    with pytest.raises(DataError, match=r"has no column 'x'|no metadata\.csv|cannot be read|no label|not an object"):
        load_images(tmp_path, processor(), id2label=ID2LABEL, label_column="x")


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no folder"):
        load_images(tmp_path / "none", processor())
    with pytest.raises(DataError, match=r"holds no images \(no files\)"):
        load_images(tmp_path, processor())
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"holds no images \(only files like .txt\)"):
        load_images(tmp_path, processor())
    with pytest.raises(DataError, match="is a file: give the folder"):
        load_images(tmp_path / "notes.txt", processor())
    class_folder(tmp_path)
    with pytest.raises(LabelError, match=r"3 of 3 classes.*'cat', 'dog', 'owl'.*'tench'"):
        load_images(tmp_path, processor(), id2label={0: "tench"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "limit is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"num_workers": -1}, "num_workers is -1"),
        ({"on_bad_image": "ignore"}, "on_bad_image is 'ignore'"),
        ({"require_labels": True}, "the labels of the model are not known: pass id2label, or model_labels"),
    ],
)
def test_invalid_options(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_images(flat_folder(tmp_path), processor(), **options)  # type: ignore[arg-type]


def test_a_processor_is_needed_and_must_be_one(tmp_path: Path) -> None:
    flat_folder(tmp_path)
    with pytest.raises(ConfigurationError, match="need a processor"):
        load_images(tmp_path)
    with pytest.raises(DataError, match=r"A str is not an image processor"):
        load_images(tmp_path, "vit")

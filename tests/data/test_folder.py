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


def test_a_seed_alone_shuffles_all(tmp_path: Path) -> None:
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
    with pytest.raises(UnreadableImageError, match=r"dog/2.png cannot be read.*on_bad_image=\"skip\""):
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


def test_provenance_is_json_and_tells_nothing_of_where_the_folder_lies(tmp_path: Path) -> None:
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
        ({"require_labels": True}, "id2label was not given"),
    ],
)
def test_options_that_cannot_be_meant(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_images(flat_folder(tmp_path), processor(), **options)  # type: ignore[arg-type]


def test_a_processor_is_needed_and_must_be_one(tmp_path: Path) -> None:
    flat_folder(tmp_path)
    with pytest.raises(ConfigurationError, match="need a processor"):
        load_images(tmp_path)
    with pytest.raises(DataError, match=r"A str is no image processor"):
        load_images(tmp_path, "vit")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_named_pipe_among_the_images_is_left_out(tmp_path: Path) -> None:
    folder = class_folder(tmp_path / "photos")
    os.mkfifo(next(path for path in folder.iterdir() if path.is_dir()) / "pipe.png")
    assert numbers(load_images(folder, processor(), id2label=ID2LABEL)) == list(range(12))

"""WebDataset tar shards."""

import io
import tarfile
from pathlib import Path

import pytest

from hf_vbp.data.decoding import UnreadableImageError
from hf_vbp.data.loading import load_images
from hf_vbp.data.shards import expand_braces, find_shards
from hf_vbp.errors import DataError, LabelError
from tests.data.helpers import CLASSES, ID2LABEL, MODEL_ID, labels, numbers, picture, png, processor, shards


def write(path: Path, files: list[tuple[str, bytes]]) -> Path:
    """Write a tar file of named contents."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def jpg(number: int) -> bytes:
    buffer = io.BytesIO()
    picture(number).save(buffer, "JPEG", quality=100, subsampling=0)
    return buffer.getvalue()


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
    with pytest.raises(LabelError, match=r"^In .* the class 'dog' of part-000.tar/0001 matches no label") as caught:
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
    "pattern",
    ["x/{0..300000000}.tar", "x/{0..9}{0..9}{0..9}{0..9}{0..9}{0..9}.tar", "{0.." + "9" * 18 + "}.tar"],
)
def test_a_pattern_with_too_many_shards_is_refused_at_once(pattern: str) -> None:
    with pytest.raises(DataError, match="gives more than 100,000 shards"):
        load_images(pattern, processor())


def test_braces_are_written_out() -> None:
    assert expand_braces("a{08..11}b{x,y}.tar") == [f"a{n:02d}b{c}.tar" for n in range(8, 12) for c in "xy"]
    assert expand_braces("{a,{b,c}}{}") == ["a", "b", "a", "c"] or sorted(set(expand_braces("{a,{b,c}}{}"))) == list(
        "abc"
    )
    assert expand_braces("{a}" * 2000) == ["a" * 2000]
    assert len(expand_braces("{0..99999}")) == 100_000


def test_brackets_in_a_path_are_not_a_pattern(tmp_path: Path) -> None:
    folder = shards(tmp_path / "run[1]")
    for source in (folder, folder / "part-000.tar", folder / "part-*.tar", folder / "part-{000..001}.tar"):
        assert numbers(load_images(str(source), processor()))[:5] == list(range(5))
    write(tmp_path / "odd[2].tar", [("1.png", png(1))])
    assert numbers(load_images(str(tmp_path / "odd[2].tar"), processor())) == [1]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_shards_of_different_image_types_are_read_whole(tmp_path: Path, num_workers: int) -> None:
    for shard, kind, encode in (("a", "jpg", jpg), ("b", "png", png), ("c", "PNG", png)):
        first = 3 * "abc".index(shard)
        files = [(f"{n}.{kind}", encode(20 * (first + n))) for n in range(3)]
        write(tmp_path / f"{shard}.tar", [part for file in files for part in (file, (f"{file[0][0]}.cls", b"1"))])
    data = load_images(str(tmp_path), processor(), id2label=ID2LABEL, on_bad_image="skip", num_workers=num_workers)
    # JPEG changes the values a little.
    assert sorted(round(number / 20) for number in numbers(data)) == list(range(9))
    assert labels(data) == [1] * 9
    assert data.bad_images == []


def test_an_image_with_a_mask_is_not_replaced_by_the_mask(tmp_path: Path) -> None:
    files = [("1.jpg", jpg(20)), ("1.png", png(99)), ("2.png", png(98)), ("3.jpg", jpg(60)), ("3.png", png(97))]
    write(tmp_path / "a.tar", files)
    data = load_images(str(tmp_path), processor(), on_bad_image="skip")
    assert [round(number / 20) for number in numbers(data)] == [1, 3]
    assert [(bad.name, bad.reason) for bad in data.bad_images] == [("a.tar/2", "there is no image")]
    assert numbers(load_images(str(tmp_path), processor(), image_column="png")) == [99, 98, 97]
    with pytest.raises(DataError, match="have no column 'webp': their files are jpg, png"):
        load_images(str(tmp_path), processor(), image_column="webp")


@pytest.mark.parametrize("cut", ["within", "between", "middle"])
def test_a_shard_that_is_cut_short_is_named(tmp_path: Path, cut: str) -> None:
    folder = shards(tmp_path, sizes=(5, 4))
    path = folder / "part-000.tar"
    data = path.read_bytes()
    with tarfile.open(path) as tar:
        third = tar.getmembers()[4]
    if cut == "middle":
        path.write_bytes(data[: third.offset] + b"x" * 512 + data[third.offset + 512 :])
    else:
        path.write_bytes(data[: third.offset_data + 10 if cut == "within" else third.offset])
    with pytest.raises(UnreadableImageError, match=r"The shard part-000.tar is damaged \(.*fetch or write it again"):
        list(load_images(str(folder), processor()))
    kept = load_images(str(folder), processor(), on_bad_image="skip")
    assert numbers(kept) == [0, 1, 5, 6, 7, 8]
    assert [bad.name for bad in kept.bad_images] == ["part-000.tar"]


def test_other_files_of_a_sample_are_passed_over(tmp_path: Path) -> None:
    names = ["./a/._1.png", "./a/1.png", "./a/1.txt", "./a/1.pyd", "./a/1.cls", "README", "b/2.png", "b/2.cls"]
    write(tmp_path / "a.tar", [(name, png(len(name)) if name.endswith("png") else b"1") for name in names])
    data = load_images(str(tmp_path), processor(), id2label=ID2LABEL)
    assert (numbers(data), labels(data)) == ([9, 7], [1, 1])


def test_labels_of_shards_that_cannot_be_read(tmp_path: Path) -> None:
    for number, text in enumerate((b'{"name": ', b'{"other": 1}', b"[]", b'{"name": {"a": 1}}', b"[" * 100_000)):
        write(tmp_path / f"{number}.tar", [("1.png", png(1)), ("1.json", text)])
        source = str(tmp_path / f"{number}.tar")
        assert numbers(load_images(source, processor(), label_column="json.name")) == [1]
        with pytest.raises(LabelError, match=r"1 has no label|neither a number nor a name"):
            load_images(source, processor(), id2label=ID2LABEL, label_column="json.name")

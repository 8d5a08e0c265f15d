"""From files to RGB, and the processor's backend."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hf_vbp.data.decoding import BadImage, BadImageLog, StreamedLabelError, UnreadableImageError, check_header, decode
from hf_vbp.data.processing import Transform, load_processor, with_pil_backend
from hf_vbp.errors import DataError
from tests.data.helpers import noise, picture, png, processor


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_every_form_of_an_image_gives_the_same_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(7))
    forms = [path, str(path), png(7), picture(7), np.asarray(picture(7)), {"bytes": png(7), "path": None}]
    forms.append({"bytes": None, "path": str(path)})
    for form in forms:
        assert np.array_equal(np.asarray(decode(form, "x")), np.asarray(picture(7)))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I", "F"])
def test_all_modes_become_rgb(mode: str) -> None:
    assert decode(picture(7).convert(mode), "x").mode == "RGB"


@pytest.mark.parametrize("mode", ["I", "F"])
@pytest.mark.parametrize("as_file", [False, True])
def test_32_bit_pictures_keep_their_brightness(mode: str, as_file: bool) -> None:
    gray = np.asarray(picture(7).convert("L")).astype(int)
    image = picture(7).convert("L").convert(mode)
    found = decode(encoded(image, "TIFF") if as_file else image, "x")
    assert np.array_equal(np.asarray(found)[..., 0], gray)
    # In full precision, the gray values of a colored picture are no whole numbers.
    exact = decode(picture(7).convert(mode), "x")
    assert np.abs(np.asarray(exact)[..., 0] - gray).max() <= 1


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    deep = Image.fromarray(np.full((4, 4), 128 * 256, dtype=np.uint16))
    assert np.asarray(decode(encoded(deep), "x")).ravel()[0] == 128


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_of_every_format_are_scaled(kind: str) -> None:
    deep = Image.fromarray(np.full((4, 4), 200 * 256, dtype=np.uint16))
    assert np.asarray(decode(encoded(deep, kind), "x")).ravel()[0] == 200


def test_floats_from_0_to_1_are_scaled() -> None:
    values = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    assert np.array_equal(
        np.asarray(decode(encoded(Image.fromarray(values), "TIFF"), "x"))[..., 1].ravel(), range(256)
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.arange(256, dtype=np.int32), range(256)),
        (np.arange(256, dtype=np.int32) * 256 + 255, range(256)),
        (np.array([65535, 65534, 256, 255, 0, 200 * 256], dtype=np.int32), [255, 255, 1, 0, 0, 200]),
        (np.arange(256, dtype=np.float32), range(256)),
        (np.zeros(4, dtype=np.int32), [0, 0, 0, 0]),
    ],
)
def test_32_bit_values_of_8_and_16_bits_are_scaled(values: Any, expected: Any) -> None:
    for image in (Image.fromarray(values[None]), encoded(Image.fromarray(values[None]), "TIFF")):
        assert np.asarray(decode(image, "x"))[0, :, 2].tolist() == list(expected)


@pytest.mark.parametrize(
    ("values", "described"),
    [
        (np.full((4, 4), 256.5, dtype=np.float32), r"32-bit floats \(from 256.5 to 256.5\)"),
        # Overexposed, on the scale of 0 to 1.
        (np.array([[0, 1.2]], dtype=np.float32), "from 0 to 1.2"),
        (np.array([[-0.5, 0.5]], dtype=np.float32), "from -0.5 to 0.5"),
        (np.array([[np.nan, 0.5]], dtype=np.float32), "32-bit floats"),
        (np.array([[np.inf, 0.5]], dtype=np.float32), "32-bit floats"),
        (np.array([[0, 4095]], dtype=np.int32), r"32-bit integers \(from 0 to 4095\)"),
        (np.array([[0, 7]], dtype=np.int32), r"32-bit integers \(from 0 to 7\)"),
        (np.array([[-1, 200]], dtype=np.int32), "32-bit integers"),
        (np.array([[0, 65536]], dtype=np.int32), "32-bit integers"),
    ],
)
def test_other_32_bit_values_are_refused_rather_than_black(values: Any, described: str) -> None:
    with pytest.raises(
        UnreadableImageError, match=f"scan.tif cannot be read.*{described}.*convert it to 8 or 16 bits"
    ):
        decode(encoded(Image.fromarray(values), "TIFF"), "scan.tif")


@pytest.mark.parametrize("where", ["bytes", "path"])
def test_a_png_with_much_text_is_read(tmp_path: Path, where: str) -> None:
    from PIL import PngImagePlugin

    notes, exif = PngImagePlugin.PngInfo(), Image.Exif()
    for number in range(3):
        notes.add_text(f"note {number}", "x" * (2 * 2**20), zip=True)
    exif[0x0112] = 6  # taken with the camera on its side
    data = encoded(Image.fromarray(noise(0)), pnginfo=notes, exif=exif, icc_profile=b"\0" * (2 * 2**20))
    path = tmp_path / "noted.png"
    path.write_bytes(data)
    check_header(path, "noted.png")
    found = decode(path if where == "path" else data, "noted.png")
    assert np.array_equal(np.asarray(found), np.rot90(noise(0), -1))


def test_pipes_are_bad_images_and_do_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    os.symlink("/dev/zero", tmp_path / "b.png")
    for name in ("a.png", "b.png"):
        for read in (decode, check_header, lambda path, name: decode({"path": str(path), "bytes": None}, name)):
            with pytest.raises(
                UnreadableImageError, match=rf"{name} cannot be read as an image \(not a regular file\)"
            ):
                read(tmp_path / name, name)


def test_arrays_of_a_data_set_are_images_where_they_can_be() -> None:
    rows = np.asarray(picture(7)).tolist()
    assert np.array_equal(np.asarray(decode(rows, "x")), np.asarray(picture(7)))
    assert decode([[0, 255]], "x").size == (2, 1)
    for bad in ([[0.5]], [[300]], [[-1]], [[[1, 2]]], [1, 2], [], [[1], [1, 2]]):
        with pytest.raises(UnreadableImageError, match="x cannot be read as an image"):
            decode(bad, "x")


def test_a_palette_with_transparency_gives_no_warning() -> None:
    data = encoded(picture(3).convert("P"), transparency=b"\0" * 4)
    assert decode(data, "x").mode == "RGB"


def test_pictures_are_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera on its side
    image = Image.fromarray(noise(0))
    assert decode(encoded(image, "JPEG", exif=exif), "x").size == image.size[::-1]


@pytest.mark.parametrize(
    "bad", [b"", b"text", encoded(picture(1))[:40], None, 3, {"bytes": None, "path": None}, "/none.png"]
)
def test_files_that_are_not_images_are_named(bad: Any) -> None:
    with pytest.raises(UnreadableImageError, match=r"^photo 7 cannot be read as an image \("):
        decode(bad, "photo 7")


def test_a_decompression_bomb_is_a_bad_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(UnreadableImageError):
        decode(png(1), "x")


def test_errors_of_worker_processes_lose_the_traceback() -> None:
    raised = (
        "Caught UnreadableImageError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        "  File ...\nhf_vbp.data.decoding.UnreadableImageError: a.png cannot be read: why.\n"
    )
    assert str(UnreadableImageError(raised)) == "a.png cannot be read: why."
    assert str(StreamedLabelError("plain: text")) == "plain: text"


def test_the_log_keeps_each_image_once_and_removes_its_file() -> None:
    log = BadImageLog()
    for name in ("b", "a", "b"):
        log.add(BadImage(name, "why\nnot"))
    assert log.read() == [BadImage("a", "why\nnot"), BadImage("b", "why\nnot")]
    path = Path(log._path)
    del log
    assert not path.exists()


def test_the_backend_of_a_processor_is_fixed(tmp_path: Path) -> None:
    processor().save_pretrained(tmp_path)
    assert type(load_processor(tmp_path)).__name__ == "ViTImageProcessorPil"
    with pytest.raises(DataError, match="no image processor"):
        load_processor(tmp_path / "none")


def test_another_backend_is_replaced_by_its_twin() -> None:
    class ViTImageProcessor:
        def preprocess(self) -> None: ...

        def to_dict(self) -> dict[str, Any]:
            return processor().to_dict()

    twin = with_pil_backend(ViTImageProcessor())
    assert type(twin).__name__ == "ViTImageProcessorPil"
    assert twin.size == processor().size


def test_a_function_can_replace_a_processor() -> None:
    transform = Transform(lambda image: np.asarray(image, dtype=np.float32).transpose(2, 0, 1))
    assert transform(picture(1)).shape == (3, 8, 8)
    assert transform.describe()["backend"] == "function"
    with pytest.raises(DataError, match=r"shape \(8, 8\)"):
        Transform(lambda image: np.zeros((8, 8)))(picture(1))


def test_a_processor_of_one_channel_gets_gray_images() -> None:
    from transformers import ViTImageProcessorPil

    size = {"height": 16, "width": 24}
    gray = ViTImageProcessorPil(size=size, image_mean=[0], image_std=[1])
    image = Image.fromarray(noise(0))
    expected = np.asarray(image.convert("L"), dtype=np.float32)[None] / 255
    assert np.allclose(Transform(gray)(image), expected, atol=1e-6)


def test_the_description_of_a_processor_follows_its_settings() -> None:
    from transformers import ViTImageProcessorPil

    one, two = Transform(processor()).describe(), Transform(ViTImageProcessorPil()).describe()
    assert one == Transform(processor()).describe()
    assert one["fingerprint"] != two["fingerprint"]

"""The benchmark of small models of several families, on a few images and for one epoch."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks import refit, small_families
from hf_vbp.adapters.registry import find_sites

pytestmark = pytest.mark.processes

COLORS = {"blue": (20, 30, 220), "red": (220, 30, 20)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images of two classes, of other sizes than the models take."""
    root = tmp_path_factory.mktemp("images")
    for name, color in COLORS.items():
        (root / name).mkdir()
        for number in range(6):
            Image.new("RGB", (40, 40), tuple(part + number for part in color)).save(root / name / f"{number}.png")
    return root


def labels() -> dict[str, Any]:
    """The classes in the order of their names."""
    return {"id2label": dict(enumerate(COLORS)), "label2id": {name: index for index, name in enumerate(COLORS)}}


def test_the_figures_are_those_of_the_stored_model(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [str(folder), str(folder), "--output", str(tmp_path), "--families", "convnext", "--ratios", "0.25", "0.5"]
    small_families.main([*words, "--epochs", "2"])
    shown = capsys.readouterr().out
    found = json.loads((tmp_path / "small_families.json").read_text())["convnext"]
    rows = {(row.get("criterion"), row.get("compensation"), row["ratio"]): row for row in found["rows"]}
    methods = [("variance", "none"), ("variance", "mean"), ("obs", "linear")]
    assert list(rows) == [(None, None, 0.0), *((*method, ratio) for method in methods for ratio in (0.25, 0.5))]
    # The stored model, read and evaluated without the library.
    model = small_families.ConvNextForImageClassification.from_pretrained(tmp_path / "convnext").eval()
    images, targets = small_families.load(folder, labels())
    assert images.shape == (12, 3, 32, 32)
    with torch.inference_mode():
        top1 = (model(pixel_values=images).logits.argmax(-1) == targets).double().mean().item()
    assert rows[None, None, 0.0]["top1"] == pytest.approx(top1)
    assert f"| convnext | 0 % | {100 * top1:.1f} (" in shown
    assert "| convnext | 0 % | 100.0 | 100.0 | 100.0 |" in shown
    assert sum(line.startswith("| | 25 % ") for line in shown.splitlines()) == 2
    assert found["training"]["epochs"] == 2
    # A stored model is not trained again.
    monkeypatch.setattr(small_families, "train", None)
    small_families.main([*words, "--epochs", "5"])
    again = json.loads((tmp_path / "small_families.json").read_text())["convnext"]
    assert again["training"] == found["training"]
    assert again["rows"] == found["rows"]


def test_the_refit_is_measured_on_the_stored_model(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(folder), str(folder), "--output", str(tmp_path), "--families", "convnextv2", "--ratios", "0.5"]
    small_families.main([*words, "--epochs", "1"])
    found = json.loads((tmp_path / "small_families.json").read_text())["convnextv2"]["rows"]
    capsys.readouterr()
    refit.main([str(tmp_path / "convnextv2"), str(folder), str(folder), "--images", "2", "12", "--ratios", "0.5"])
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert header == "| images | neurons removed | without | towards zero | towards the first fit |"
    assert [row.split(" | ")[:2] for row in rows] == [["| 2", "50 %"], ["| 12", "50 %"]]
    # All images are those of the other benchmark.
    top1 = 100 * next(row["top1"] for row in found if row.get("criterion") == "obs")
    assert rows[1].rpartition("| ")[0].rpartition("| ")[2].startswith(f"{top1:.1f} (")
    with pytest.raises(SystemExit, match="no MLP whose neurons are mixed"):
        refit.main([str(saved_dinov2(tmp_path)), str(folder), str(folder)])


def saved_dinov2(folder: Path) -> Path:
    small_families.dinov2(labels()).save_pretrained(folder / "dinov2")
    return folder / "dinov2"


@pytest.mark.parametrize("name", small_families.FAMILIES)
def test_each_model_has_a_few_hundred_thousand_parameters(name: str) -> None:
    make, epochs = small_families.FAMILIES[name]
    model = make(labels()).eval()
    assert 100_000 < sum(parameter.numel() for parameter in model.parameters()) < 600_000
    assert len(find_sites(model)) >= 4
    assert epochs > 1


def test_an_augmented_image_is_shifted_and_flipped() -> None:
    images = torch.arange(1.0, 1 + 32 * 32).reshape(1, 1, 32, 32).expand(64, 3, 32, 32)
    made = small_families.augmented(images, torch.Generator().manual_seed(0))
    assert made.shape == images.shape
    flipped = 0
    for one in made[:, 0]:
        # Inside the padding the values grow by 1 to the right, or to the left where the image is flipped.
        step = float(one[16, 17] - one[16, 16])
        assert abs(step) == 1
        flipped += step < 0
        assert float(one[17, 16] - one[16, 16]) == 32
    assert 16 < flipped < 48
    assert len({float(one[16, 16]) for one in made[:, 0]}) > 16

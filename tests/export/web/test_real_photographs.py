"""DeiT-Tiny on photographs in the browser: Python's answer, also where a photograph is made much smaller."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.export.web.helpers import PATIENCE, export_sample, served

expect = pytest.importorskip("playwright.sync_api").expect


def write_photographs(source: Path, folder: Path) -> None:
    """Thirty photographs, ten of them at six times their size, as cameras make them."""
    folder.mkdir()
    chosen = sorted(source.glob("*/*"))[::16][:30]
    assert len(chosen) == 30
    for index, path in enumerate(chosen):
        if index % 3:
            shutil.copyfile(path, folder / f"photograph_{index}.jpg")
        else:
            photograph = Image.open(path).convert("RGB")
            size = (6 * photograph.width, 6 * photograph.height)
            photograph.resize(size, Image.Resampling.BICUBIC).save(folder / f"photograph_{index}.jpg", quality=92)


@pytest.mark.slow
@pytest.mark.real
def test_photographs_get_the_answer_of_python(page: Any, real_assets: Path, tmp_path: Path) -> None:
    write_photographs(real_assets / "nips17" / "validation", tmp_path / "pictures")
    export_sample(tmp_path, str(real_assets / "deit-tiny"))
    reference = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    differences, same = [], 0
    with served(tmp_path / "exported") as url:
        page.goto(url)
        expect(page.get_by_role("status")).to_contain_text("Ready", timeout=PATIENCE)
        for name, by_model in reference.items():
            page.get_by_label("Choose a picture").set_input_files(tmp_path / "pictures" / name)
            expect(page.get_by_role("figure")).to_contain_text(name, timeout=PATIENCE)
            expect(page.get_by_role("status")).to_contain_text("Model: ", timeout=PATIENCE)
            expected = by_model["Model"]["fp32"]
            first = page.locator("tbody tr").first
            label, score = first.locator("td").first.inner_text(), first.locator("data").get_attribute("value")
            same += label == max(expected, key=lambda one: expected[one])
            differences.append(abs(float(score) - expected[label]))
    print(f"{same} of {len(reference)} answers, largest difference of a score {max(differences):.4f}")
    assert same == len(reference)
    # Other versions of libjpeg decode a little differently.
    assert max(differences) < 0.01

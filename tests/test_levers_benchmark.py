"""The benchmark of the levers on a tiny model and real files: its table, also written into a document."""

import argparse
import csv
import re
from pathlib import Path

import pytest

from benchmarks import levers
from hf_vbp.costs.counts import count_macs
from tests.cli.helpers import save_images, save_tiny
from tests.costs.clock import Clock

pytestmark = pytest.mark.processes


@pytest.fixture
def options(tmp_path: Path) -> argparse.Namespace:
    save_tiny(tmp_path / "model")
    for folder in ("calibration", "evaluation"):
        save_images(tmp_path / folder, each=2)
    folders = {name: str(tmp_path / name) for name in ("model", "calibration", "evaluation")}
    limits = {"limit": None, "evaluation_limit": None, "seed": 0}
    return argparse.Namespace(**folders, **limits, macs=[0.75], latency=True, threads=1, precision=0.03)


def test_one_command_gives_the_row_of_each_lever(
    options: argparse.Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(lambda model, now: count_macs(model) * 1e-9).install(monkeypatch)
    rows = levers.run(options)
    assert [row["lever"] for row in rows] == ["dense", "pruned", "merged", "both"]
    for row in rows[1:]:
        share = float(row["MACs"])
        assert share <= 0.751
        for batch in (1, 16):
            found = re.fullmatch(r"[\d.]+ \(([\d.]+)x\)", row[f"ms, batch {batch}"])
            assert found is not None
            assert float(found[1]) == pytest.approx(1 / share, abs=0.02)
    sizes = [float(row["MB"]) for row in rows]
    assert sizes[1] <= sizes[0] == sizes[2]
    document = tmp_path / "page.md"
    document.write_text(f"before\n{levers.BEGIN}\nold\n{levers.END}\nafter\n", encoding="utf-8")
    levers.write(rows, tmp_path / "out", [document])
    table = (tmp_path / "out" / "levers.md").read_text(encoding="utf-8")
    assert document.read_text(encoding="utf-8") == f"before\n{levers.BEGIN}\n{table}{levers.END}\nafter\n"
    written = list(csv.DictReader((tmp_path / "out" / "levers.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["top-1"] for row in written] == [row["top-1"] for row in rows]


def test_a_document_without_the_marks_is_refused() -> None:
    with pytest.raises(SystemExit, match="once each"):
        levers.with_table("no marks\n", "")


@pytest.mark.parametrize("name", ["README.md", "docs/token_merging.md"])
def test_the_documents_have_the_marks(name: str) -> None:
    text = (Path(__file__).parents[1] / name).read_text(encoding="utf-8")
    table = levers.with_table(text, "")
    assert len(table) < len(text)
    assert "python -m benchmarks.levers deit-tiny calibration validation --macs 0.6 --latency" in text

"""The benchmark behind the figures of docs/without_installing.md, on the sample."""

import sys

import pytest

from benchmarks import preview

pytestmark = pytest.mark.processes


def test_a_row_for_every_share(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["preview", "sample", "sample", "--limit", "32"])
    preview.main()
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[0] == "removed"
    assert [float(row.split()[0]) for row in rows] == list(preview.RATIOS)
    differences = {float(row.split()[0]): float(row.split()[3].rstrip("%")) for row in rows}
    assert all(abs(difference) < 10 for ratio, difference in differences.items() if ratio >= 0.3)

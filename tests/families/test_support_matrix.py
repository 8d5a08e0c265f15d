"""docs/support.md is that of the zoo."""

import runpy
from pathlib import Path

from .zoo import FAMILIES

ROOT = Path(__file__).parents[2]


def test_the_support_matrix_is_up_to_date() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "make_support_matrix.py"))
    found = (ROOT / "docs" / "support.md").read_text(encoding="utf-8")
    assert found == script["page"](), "run python scripts/make_support_matrix.py"
    for family in FAMILIES:
        assert f"| `{family.name}` |" in found

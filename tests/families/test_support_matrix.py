"""docs/support.md is that of the zoo."""

import json
import runpy
from pathlib import Path

import pytest

from .contract import BY_NAME, PRUNED
from .processors import NO_PIPELINE
from .zoo import FAMILIES

ROOT = Path(__file__).parents[2]


def test_the_support_matrix_is_up_to_date() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "make_support_matrix.py"))
    found = (ROOT / "docs" / "support.md").read_text(encoding="utf-8")
    assert found == script["page"](), "run python scripts/make_support_matrix.py"
    for family in FAMILIES:
        assert f"| `{family.name}` |" in found


@pytest.mark.parametrize("name", ["DeiTModel", "CLIPVisionModel", "Siglip2VisionModel"])
def test_the_shares_are_those_of_the_default_config(name: str) -> None:
    """Parameters and MACs of the usual shapes, from the sizes in the config."""
    shares = json.loads((ROOT / "tests" / "families" / "shares.json").read_text(encoding="utf-8"))["shares"]
    script = runpy.run_path(str(ROOT / "scripts" / "measure_shares.py"))
    assert script["share_of"](BY_NAME[name]) == pytest.approx(shares[name], abs=0.005)
    if name == "DeiTModel":
        width, hidden, tokens, patch = 768, 3072, 198, 16
        mlp = 12 * tokens * 2 * width * hidden
        attention = 12 * (4 * tokens * width**2 + 2 * tokens**2 * width)
        embedding, pooler = 196 * 3 * patch**2 * width, width**2
        assert shares[name]["macs"] == pytest.approx(mlp / (mlp + attention + embedding + pooler), abs=1e-4)


def test_every_class_has_its_shares_or_is_named_here() -> None:
    """A new class without shares is an oversight: run python scripts/measure_shares.py."""
    shares = json.loads((ROOT / "tests" / "families" / "shares.json").read_text(encoding="utf-8"))["shares"]
    page = (ROOT / "docs" / "support.md").read_text(encoding="utf-8")
    plain = {family.name for family in PRUNED if "-" not in family.name}
    assert all(share.keys() == {"parameters", "macs"} for share in shares.values())
    assert plain - shares.keys() <= {
        "BeitForSemanticSegmentation",
        "ConvNextBackbone",
        "DetrForObjectDetection",
        "DetrForSegmentation",
        "PerceiverForImageClassificationConvProcessing",
        "PerceiverForImageClassificationFourier",
        "RTDetrForObjectDetection",
    }
    for name, reason in NO_PIPELINE.items():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
        assert f"no pipeline: {reason}" in row
    assert "no pipeline: videos" in page

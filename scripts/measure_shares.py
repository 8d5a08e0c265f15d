"""Writes tests/families/shares.json, the shares in docs/support.md: ``python scripts/measure_shares.py``.

Takes about two minutes. No weights are made: every class is built from its default config on the meta device.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from hf_vbp.adapters.prepared import prepare_structure  # noqa: E402
from hf_vbp.errors import UnsupportedModelError  # noqa: E402
from hf_vbp.workflow.inspect import inspect_model  # noqa: E402
from tests.families.contract import PRUNED  # noqa: E402
from tests.families.family import Family  # noqa: E402
from tests.families.running import model_of  # noqa: E402

FILE = ROOT / "tests" / "families" / "shares.json"


def share_of(family: Family) -> dict[str, Any] | None:
    """Return the shares of a class in its default config.

    None for variants, and where the default config cannot be built or has no MLP that can be pruned.
    """
    if "-" in family.name or family.needs:
        return None
    tiny = model_of(family.name)
    try:
        with torch.device("meta"):
            prepared = prepare_structure(type(tiny)(type(tiny.config)()).to("meta"))
    except (UnsupportedModelError, ImportError, TypeError, ValueError):
        return None
    found = inspect_model(prepared)
    if "macs_not_counted" in found:
        print(f"{family.name}: MACs not counted: {found['macs_not_counted']}.")
    return {
        key: round(sum(site[key] for site in found["sites"]), 4)
        for key in ("parameters", "macs")
        if found[key] is not None
    }


if __name__ == "__main__":
    found = {family.name: share_of(family) for family in PRUNED}
    shares = {name: share for name, share in found.items() if share is not None}
    FILE.write_text(json.dumps({"transformers": transformers.__version__, "shares": shares}, indent=1) + "\n")
    print(f"Wrote {FILE} with {len(shares)} of {len(found)} classes and variants.")

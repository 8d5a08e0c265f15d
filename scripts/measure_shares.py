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
from hf_vbp.costs.part import counted_part  # noqa: E402
from hf_vbp.errors import UnsupportedModelError  # noqa: E402
from hf_vbp.workflow.inspect import inspect_model  # noqa: E402
from tests.families.contract import PRUNED  # noqa: E402
from tests.families.family import Family  # noqa: E402
from tests.families.running import model_of  # noqa: E402

FILE = ROOT / "tests" / "families" / "shares.json"


def share_of(family: Family) -> dict[str, Any] | None:
    """Return the shares of a class in its default config, of MACs where its forward pass reads no values.

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
    try:
        sites = inspect_model(prepared)["sites"]
        return {key: round(sum(site[key] for site in sites), 4) for key in ("parameters", "macs")}
    except UnsupportedModelError:
        counted = prepared.model.get_submodule(counted_part(prepared.model, prepared.sites))
        total = sum(parameter.numel() for parameter in counted.parameters())
        hidden = sum(site.intermediate_size * site.parameters_per_neuron for site in prepared.sites)
        return {"parameters": round(hidden / total, 4)}


if __name__ == "__main__":
    found = {family.name: share_of(family) for family in PRUNED}
    shares = {name: share for name, share in found.items() if share is not None}
    FILE.write_text(json.dumps({"transformers": transformers.__version__, "shares": shares}, indent=1) + "\n")
    print(f"Wrote {FILE} with {len(shares)} of {len(found)} classes and variants.")

"""Writes docs/support.md from the zoo of tiny models: ``python scripts/make_support_matrix.py``."""

import json
import sys
from pathlib import Path
from textwrap import fill
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.families import contract, processors  # noqa: E402
from tests.families.family import Family  # noqa: E402
from tests.families.inventory import layout_of  # noqa: E402
from tests.families.zoo import FAMILIES  # noqa: E402

SHARES = json.loads((ROOT / "tests" / "families" / "shares.json").read_text(encoding="utf-8"))
PAGE = ROOT / "docs" / "support.md"
HEAD = """# Supported model classes

Made by `python scripts/make_support_matrix.py` from `tests/families/`, where a tiny random model of every class passes
the contract test: sites found, statistics equal to a float64 reference, the pruned model equal to the dense model with
pruned neurons held at their mean (relative error below 1e-5; `Sam2Model`: masks below 1e-4), the default method, a
training step, bfloat16, `torch.export`, and reloading in a fresh process with equal weights and outputs. Every
criterion runs with every compensation for one class per layout.

- **MLPs**: number of MLPs in the tiny model, and their layout: up projections, modules with one entry per neuron, down
  projection, and a BatchNorm behind it. Linear layers with biases, unless stated otherwise.
- **Of parameters**, **of MACs**: share of the hidden neurons of these MLPs, the most that pruning can remove, in the
  default config of the class in transformers VERSION, built without weights by
  `python scripts/measure_shares.py`; of the vision tower, where the class takes texts too. `hf-vbp inspect MODEL`
  prints those of a checkpoint. Empty: a variant of another config, or a default config that cannot be built or has no
  MLP.
- **Loads by**: `import hf_vbp` and the class, and remote code (`trust_remote_code=True` with an auto class, hf_vbp not
  installed). *Class*: only with `import hf_vbp` and the class itself, because no auto class of transformers that opens
  a folder lists it.
- **Notes**: what is not exact, not exported or not pruned. The contract test uses tensors. In addition, every class is
  pruned with batches of its real processor, and its checkpoint is opened by the pipeline of its task where there is
  one; *no pipeline*: its checkpoint is not opened by one, with the reason; *from tensors only*: it has no processor of
  its own; *processor needs torchvision*, *needs timm*: that part runs in `make test-vision`.
"""
MIXES = "not exact: a normalization over the neurons changes the others; the compensation is refitted by a second pass"
HEADER = ("class", "output", "MLPs", "of parameters", "of MACs", "loads by", "notes")


def notes_of(family: Family) -> str:
    """What differs from the other classes."""
    notes: list[str] = []
    notes += [MIXES] if any(site.mixes for site in family.sites) else []
    if not contract.has_bias(family):
        notes.append("no bias: compensation `mean` is refused")
    if family.class_name in contract.NOT_EXPORTED:
        notes.append("`torch.export` fails, also for the dense model")
    notes += [f"`{prefix}` is not pruned: {reason}" for prefix, reason in family.excluded.items()]
    notes += ["from tensors only"] if family.class_name in processors.FROM_TENSORS else []
    if family.class_name in processors.NO_PIPELINE:
        notes.append(f"no pipeline: {processors.NO_PIPELINE[family.class_name]}")
    elif family.class_name.lower().startswith(tuple(processors.VIDEOS)):
        notes.append("no pipeline: videos")
    if family.needs:
        notes.append(f"needs {family.needs}")
    elif family.class_name in processors.NEEDS_TORCHVISION:
        notes.append("processor needs torchvision")
    return "; ".join([*notes, *([family.notes] if family.notes else [])])


def ways_of(family: Family) -> str:
    """How a pruned checkpoint is loaded."""
    return "class" if family.class_name in contract.BY_CLASS_ONLY else "import, remote code"


def shares_of(family: Family) -> tuple[str, str]:
    """The shares of parameters and MACs that belong to hidden neurons; empty where they were not measured."""
    found = SHARES["shares"].get(family.name, {})
    parameters, macs = (f"{100 * found[key]:.1f} %" if key in found else "" for key in ("parameters", "macs"))
    return parameters, macs


def row(family: Family) -> tuple[str, ...]:
    """The row of a class that can be pruned."""
    counts: dict[str, int] = {}
    for site in family.sites:
        counts[layout_of(site)] = counts.get(layout_of(site), 0) + 1
    layouts = ", ".join(f"{count} x `{layout}`" for layout, count in counts.items())
    return (f"`{family.name}`", family.kind, layouts, *shares_of(family), ways_of(family), notes_of(family))


def whole_row(family: Family) -> tuple[str, ...]:
    """The row of a language model with a vision tower."""
    excluded = [f"`{prefix}`: {reason}" for prefix, reason in family.excluded.items()]
    tower = contract.TOWERS[family.name]
    return (f"`{family.name}`", f"`{tower}`", str(len(family.sites)), "; ".join(excluded))


def refused_row(family: Family) -> tuple[str, ...]:
    """The row of a model without MLPs that can be pruned."""
    reasons = "; ".join(f"`{prefix}`: {reason}" for prefix, reason in family.excluded.items())
    return (f"`{family.name}`", reasons, family.notes)


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines: list[Any] = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |" for cells in lines)


def page() -> str:
    """Return the page."""
    whole = """## Language models with a vision tower

The whole model is refused; its vision tower is pruned as a model of its own, in place, with batches of images. The
whole model is then saved with the smaller tower and loads by `import hf_vbp` and by remote code."""
    refused = """## Refused

These classes have no MLP that can be pruned. The error, also that of `hf-vbp inspect`, gives these reasons."""
    exported = ", ".join(f"`{name}`" for name in contract.EXPORTED_IN_SUITE)
    exported = f"- **`torch.export`** is tested in the suite for {exported}; for all others in `make test-slow`."
    parts = [
        HEAD.replace("VERSION", SHARES["transformers"]) + fill(exported, 120, subsequent_indent="  ") + "\n",
        table(HEADER, [row(family) for family in contract.PRUNED]) + "\n",
        whole + "\n",
        table(("class", "tower", "MLPs", "not pruned"), [whole_row(family) for family in contract.WHOLE]) + "\n",
        refused + "\n",
        table(("class", "reason", "notes"), [refused_row(family) for family in contract.WITHOUT]) + "\n",
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"Wrote {PAGE} with {len(FAMILIES)} classes and variants.")

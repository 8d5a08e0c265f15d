"""Print the zoo as a table: ``python -m tests.families.inventory``."""

from collections.abc import Iterable

from .family import Family, Site
from .zoo import FAMILIES

HEADER = ("class", "output", "sites", "blocks", "layout", "notes")


def names_of(site: Site) -> str:
    """The last parts of the names of the projections and of what is in between."""

    def short(name: str) -> str:
        return name.removeprefix(f"{site.parent}.")

    parts = [" * ".join(map(short, site.ups)), *map(short, site.between), short(site.down)]
    if site.behind:
        parts.append(short(site.behind))
    return " > ".join(parts)


def layout_of(site: Site) -> str:
    """Names, linear type, and what differs from two linear layers with biases."""
    marks = [site.kind] if site.kind != "Linear" else []
    marks += ["packed"] if site.packed else []
    marks += ["no bias"] if not site.bias else []
    marks += ["mixes neurons"] if site.mixes else []
    marks += [f"{site.calls} calls"] if site.calls > 1 else []
    marks += ["unused"] if not site.used else []
    return names_of(site) + (f" ({', '.join(marks)})" if marks else "")


def row(family: Family) -> tuple[str, ...]:
    """One line of the table."""
    layouts = dict.fromkeys(layout_of(site) for site in family.sites)
    blocks = len({site.parent for site in family.sites})
    excluded = [f"without {prefix}: {reason}" for prefix, reason in family.excluded.items()]
    notes = "; ".join(part for part in (family.notes, *excluded) if part)
    return (family.name, family.kind, str(len(family.sites)), str(blocks), ", ".join(layouts) or "none", notes)


def table(families: Iterable[Family]) -> str:
    """All entries as a Markdown table."""
    rows = [HEADER, tuple("---" for _ in HEADER), *map(row, families)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


if __name__ == "__main__":
    print(table(FAMILIES))

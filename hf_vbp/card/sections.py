"""The marks around generated sections, and how the user's own text is kept when a card is generated again."""

import re
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass

_MARK = re.compile(r"<!-- hf_vbp:(?P<kind>begin|end) (?P<name>[a-z-]{1,40}) -->")
_TRAINER_MARK = "This model card has been generated automatically according to the information"
_GENERATED = "<!-- This model card has been generated automatically"


@dataclass(frozen=True)
class Section:
    """A generated section with its marks, and the user's own text after it.

    Attributes:
        name: Name of the section; None for the text before the first one.
        generated: The section, marks included; empty where ``name`` is None.
        own: Text that the user wrote after the section.
    """

    name: str | None
    generated: str
    own: str


def split(body: str) -> list[Section]:
    """Split the body of a card at the marks, in linear time; the first entry is the text before all sections."""
    found = _find(body)
    starts = [start for _, start, _ in found] + [len(body)]
    sections = [Section(None, "", body[: starts[0]])]
    for (name, start, end), following in zip(found, starts[1:], strict=True):
        sections.append(Section(name, body[start:end], body[end:following]))
    return sections


def _find(body: str) -> list[tuple[str, int, int]]:
    """Return name, start and end of every section: from its first mark to the next end mark of the same name."""
    marks = list(_MARK.finditer(body))
    ends: dict[str, list[int]] = {}
    for match in marks:
        if match["kind"] == "end":
            ends.setdefault(match["name"], []).append(match.end())
    found: list[tuple[str, int, int]] = []
    position = 0
    for match in marks:
        if match["kind"] == "end" or match.start() < position or body[match.end() : match.end() + 1] != "\n":
            continue
        same = ends.get(match["name"], [])
        index = bisect_left(same, match.end())
        if index < len(same):
            position = same[index] + (body[same[index] : same[index] + 1] == "\n")
            found.append((match["name"], match.start(), position))
    return found


def defects(body: str) -> list[str]:
    """Return the defects of the marks of a card: sections that appear twice, and marks without a partner."""
    sections = _find(body)
    repeated = [name for name, times in Counter(name for name, _, _ in sections).items() if times > 1]
    found = [f"the section {name} appears more than once" for name in repeated]
    if len(_MARK.findall(body)) != 2 * len(sections):
        found.append("a mark of a section has no partner")
    return found


def merge(fresh: str, existing: str) -> str:
    """Return the fresh body with the user's own text of the existing one, each part after the section it followed.

    A card without marks that transformers generated is replaced; any other text without marks belongs to the user and
    is kept after the generated sections.

    Args:
        fresh: A newly rendered body.
        existing: The body of the present card.
    """
    old = split(existing)
    if len(old) == 1:
        own = "" if _TRAINER_MARK in existing or _GENERATED in existing else existing.strip()
        return f"{fresh.rstrip()}\n\n{own}\n" if own else fresh
    parts = split(fresh)
    texts: dict[str | None, list[str]] = {section.name: [] for section in parts}
    place: str | None = None
    for section in old:
        place = section.name if section.name in texts else place
        if section.own.strip():
            texts[place].append(section.own.strip())
    joined = []
    for section in parts:
        own = "\n\n".join(texts[section.name])
        joined.append(section.generated.rstrip("\n") if section.name else "")
        joined.append(own)
    return "\n\n".join(part for part in joined if part) + "\n"


def has_own_text(body: str) -> bool:
    """Return whether the body of a card has text outside the marks."""
    return any(section.own.strip() for section in split(body))


def generated_text(body: str) -> dict[str, str]:
    """Return name to text of the generated sections, for comparison."""
    return {section.name: section.generated.strip() for section in split(body) if section.name}

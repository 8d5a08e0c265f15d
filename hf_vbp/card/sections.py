"""The marks around what is generated, and how text of the user's own survives when it is generated again."""

import re
from dataclasses import dataclass

_SECTION = re.compile(r"<!-- hf_vbp:begin (?P<name>[a-z-]+) -->\n.*?<!-- hf_vbp:end (?P=name) -->\n?", re.S)
_TRAINER_MARK = "This model card has been generated automatically according to the information"
_GENERATED = re.compile(r"<!-- This model card has been generated automatically.*?-->", re.S)


@dataclass(frozen=True)
class Section:
    """A generated section with its marks, and the user's own text that follows it.

    Attributes:
        name: Name of the section; None for what stands before the first one.
        generated: The section as it stands, marks included; empty where ``name`` is None.
        own: What the user wrote behind it.
    """

    name: str | None
    generated: str
    own: str


def split(body: str) -> list[Section]:
    """Split the body of a card at the marks; the first entry is what stands before all of them."""
    found = list(_SECTION.finditer(body))
    starts = [match.start() for match in found] + [len(body)]
    sections = [Section(None, "", body[: starts[0]])]
    for match, following in zip(found, starts[1:], strict=True):
        sections.append(Section(match["name"], match[0], body[match.end() : following]))
    return sections


def merge(fresh: str, existing: str) -> str:
    """Return the fresh body with the user's own text of the existing one, each part behind the section it followed.

    A card without marks that transformers generated is replaced; any other text without marks is the user's,
    and stands behind what is generated.

    Args:
        fresh: A newly rendered body.
        existing: The body that stands there now.
    """
    old = split(existing)
    if len(old) == 1:
        generated_elsewhere = _TRAINER_MARK in existing or _GENERATED.search(existing)
        own = "" if generated_elsewhere else existing.strip()
        return f"{fresh.rstrip()}\n\n{own}\n" if own else fresh
    parts = split(fresh)
    names = [section.name for section in parts]
    texts: dict[str | None, list[str]] = {name: [] for name in names}
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


def has_own_text(card: str) -> bool:
    """Tell whether anybody wrote anything outside the marks of a card, below its metadata."""
    body = re.sub(r"\A---\n.*?\n---\n", "", card.replace("\r\n", "\n"), count=1, flags=re.S)
    return any(section.own.strip() for section in split(body))


def generated_text(body: str) -> dict[str, str]:
    """Return name to text of the generated sections, for comparison."""
    return {section.name: section.generated.strip() for section in split(body) if section.name}

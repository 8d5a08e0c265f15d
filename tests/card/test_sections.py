"""Text of the user is kept when a card is generated again."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_vbp.card import sections


def body(*names: str, version: int = 1) -> str:
    parts = [f"<!-- hf_vbp:begin {name} -->\ntext {version} of {name}\n<!-- hf_vbp:end {name} -->" for name in names]
    return "\n\n".join(parts) + "\n"


def test_without_a_card_nothing_is_added() -> None:
    assert sections.merge(body("a", "b"), "") == body("a", "b")


def test_text_of_the_user_is_kept_after_the_section_it_followed() -> None:
    old = "before\n\n" + body("a", "b").replace("<!-- hf_vbp:end a -->", "<!-- hf_vbp:end a -->\n\n## Mine\n\nafter a")
    merged = sections.merge(body("a", "c", "b", version=2), old + "\nat the end\n")
    own = [section.own.strip() for section in sections.split(merged)]
    assert own == ["before", "## Mine\n\nafter a", "", "at the end"]
    assert "text 1" not in merged


def test_text_after_a_dropped_section_moves_to_the_one_before() -> None:
    merged = sections.merge(body("a", "c"), body("a", "b") + "\nnotes\n\n" + body("c"))
    assert [section.own.strip() for section in sections.split(merged)] == ["", "notes", ""]


def test_edits_within_the_marks_are_replaced() -> None:
    assert sections.merge(body("a"), body("a").replace("text 1", "text changed")) == body("a")


def test_a_card_without_marks_is_kept_after_the_generated_one() -> None:
    assert sections.merge(body("a"), "# My own card\n").endswith("<!-- hf_vbp:end a -->\n\n# My own card\n")


def test_a_card_of_trainer_is_replaced() -> None:
    made = (
        "<!-- This model card has been generated automatically according to the information the Trainer had -->\n# x"
    )
    assert sections.merge(body("a"), made) == body("a")


@given(st.lists(st.sampled_from(["mine", "## Heading\n\nbody", "| a |", "<!-- note -->"]), min_size=4, max_size=4))
def test_rendering_twice_changes_nothing(own: list[str]) -> None:
    marked = body("a", "b", "c").split("\n\n")
    old = "\n\n".join(part for pair in zip(own, [*marked, ""], strict=True) for part in pair)
    once = sections.merge(body("a", "b", "c", version=2), old)
    assert sections.merge(body("a", "b", "c", version=2), once) == once
    assert all(part in once for part in own)


@pytest.mark.parametrize(
    ("card", "found"),
    [
        (body("a", "b"), []),
        (body("a", "b", "a"), ["the section a appears more than once"]),
        (body("a") + "<!-- hf_vbp:begin b -->\n", ["a mark of a section has no partner"]),
        (body("a") + "<!-- hf_vbp:end a -->\n", ["a mark of a section has no partner"]),
        (
            body("a").replace("text", "<!-- hf_vbp:begin b -->\n<!-- hf_vbp:end b -->\n"),
            ["a mark of a section has no partner"],
        ),
    ],
)
def test_defects(card: str, found: list[str]) -> None:
    assert sections.defects(card) == found


OLD = re.compile(r"<!-- hf_vbp:begin (?P<name>[a-z-]+) -->\n.*?<!-- hf_vbp:end (?P=name) -->\n?", re.S)
PIECES = [f"<!-- hf_vbp:{kind} {name} -->" for kind in ("begin", "end") for name in "ab"] + ["\n", "text", " "]


@given(st.lists(st.sampled_from(PIECES), max_size=14))
def test_sections_are_those_of_the_expression(pieces: list[str]) -> None:
    """The linear search finds the same sections as the regular expression, which is quadratic."""
    card = "".join(pieces)
    assert [section.generated for section in sections.split(card)][1:] == [match[0] for match in OLD.finditer(card)]

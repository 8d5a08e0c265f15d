"""Numbers and foreign text in cards."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_vbp.card import text


def test_numbers() -> None:
    assert text.percent(0.7566) == "75.7 %"
    assert text.with_interval(0.757, [0.731, 0.782]) == "75.7 % (73.1 to 78.2)"
    assert text.with_interval(0.5, None) == "50.0 %"
    assert text.count(5717416) == "5,717,416"
    assert text.quantity(1.26e9) == "1.26 G"
    assert text.quantity(22_880_000, "B") == "22.88 MB"
    assert text.quantity(512, "B") == "512 B"
    assert text.change(200, 150) == "-25.0 %"
    assert text.change(0, 0) == ""
    assert text.number(0.123456) == "0.1235"
    assert text.number(12345) == "12,345"


@pytest.mark.parametrize("nasty", ["a|b", "a\nb", "<!-- x -->", "[l](u)", "`c`", "a*b_c"])
def test_foreign_text_does_not_break_out(nasty: str) -> None:
    shown = text.foreign(nasty)
    assert "\n" not in shown
    assert "<" not in shown
    assert all(shown[index - 1] == "\\" for index, letter in enumerate(shown) if letter in "|`*_[]")


@given(st.text())
def test_text_is_escaped_once(content: str) -> None:
    once = text.foreign(content)
    assert text.foreign(once) is once
    assert text.foreign_line(once) is once


@pytest.mark.parametrize(
    ("content", "shown"), [("# a", "\\# a"), ("1. a", "1\\. a"), ("- a", "\\- a"), ("1.5 %", "1.5 %")]
)
def test_a_line_cannot_begin_a_block(content: str, shown: str) -> None:
    assert text.foreign_line(content) == shown


@given(st.text())
def test_code_cannot_be_ended_by_its_text(content: str) -> None:
    assert "```" not in text.code_block(content)
    assert "<!--" not in text.code_block(content)
    span = text.code_span(content)
    assert "`" not in span
    assert len(span.splitlines()) <= 1


def test_the_chart_has_a_line_per_layer() -> None:
    chart = text.bar_chart([48, 48, 24, 48, 0], [48, 0, 12, 1, 0], length=8)
    assert chart.splitlines() == [
        "  0 ████████ 48 / 48 100.0 %",
        "  1 ░░░░░░░░  0 / 48   0.0 %",
        "  2 ██░░     12 / 24  50.0 %",
        "  3 █░░░░░░░  1 / 48   2.1 %",
        "  4           0 /  0     - %",
    ]


@given(st.lists(st.tuples(st.integers(0, 9000), st.floats(0, 1)), min_size=1, max_size=40))
def test_kept_neurons_are_drawn_in_proportion(sizes: list[tuple[int, float]]) -> None:
    dense = [width for width, _ in sizes]
    kept = [int(width * share) for width, share in sizes]
    for line, width, stays in zip(text.bar_chart(dense, kept).splitlines(), dense, kept, strict=True):
        filled, light = line.count(text.FULL), line.count(text.EMPTY)
        assert (filled > 0) == (stays > 0)
        if width:
            assert abs(filled - (filled + light) * stays / width) <= 1

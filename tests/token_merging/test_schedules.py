"""How many tokens are merged before each block."""

from typing import Any

import pytest

from hf_vbp.errors import ConfigurationError
from hf_vbp.token_merging.schedules import ConstantSchedule, FallingSchedule, counts_of, tokens_per_block


@pytest.mark.parametrize("blocks", [1, 2, 3, 4, 12, 24])
@pytest.mark.parametrize("r", [0, 1, 5, 13])
def test_falling_schedule_merges_as_many_tokens_in_all(r: int, blocks: int) -> None:
    constant, falling = ConstantSchedule(r).counts(blocks), FallingSchedule(r).counts(blocks)
    assert len(falling) == len(constant) == blocks
    assert sum(falling) == sum(constant)
    assert constant[0] == falling[0] == 0
    # Linearly from 2 r to 0, up to rounding.
    for index, count in enumerate(falling[1:]):
        exact = 2 * r * (1 - index / (blocks - 2)) if blocks > 2 else r
        assert abs(count - exact) <= 1


@pytest.mark.parametrize(
    ("r", "expected"),
    [(0, [0, 0, 0]), (8, [0, 8, 8]), ([0, 2, 5], [0, 2, 5]), ((0, 0, 1), [0, 0, 1]), (ConstantSchedule(3), [0, 3, 3])],
)
def test_every_way_to_give_r(r: Any, expected: list[int]) -> None:
    assert counts_of(r, 3) == expected


class Wrong:
    def counts(self, blocks: int) -> list[int]:
        return [1] * blocks


@pytest.mark.parametrize(
    ("r", "shown"),
    [
        (-1, "-1"),
        (True, "True"),
        (1.5, "1.5"),
        ("8", "'8'"),
        (None, "None"),
        ([0, 4], "one number for each of 3 blocks"),
        ([4, 4, 4], "0 for the first"),
        ([0, -4, 4], "-4"),
        ([0, 4, 4.0], "4.0"),
        (Wrong(), "0 for the first"),
    ],
)
def test_invalid_r_is_refused(r: Any, shown: str) -> None:
    with pytest.raises(ConfigurationError, match="expected") as raised:
        counts_of(r, 3)
    assert shown in str(raised.value)


def test_tokens_per_block_clips_at_half() -> None:
    assert tokens_per_block([0, 13, 13, 13], tokens=197, leading=1) == [197, 184, 171, 158]
    assert tokens_per_block([0, 100, 100, 100], tokens=197, leading=1) == [197, 99, 50, 26]
    assert tokens_per_block([0, 5, 5, 5, 5], tokens=9, leading=2) == [9, 6, 4, 3, 3]

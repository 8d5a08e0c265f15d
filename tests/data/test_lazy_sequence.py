"""A lazy sequence against a list."""

import pytest

from hf_vbp.data.lazy_sequence import LazySequence


class Squares(LazySequence[int]):
    def __init__(self, length: int) -> None:
        self.length = length
        self.made: list[int] = []

    def __len__(self) -> int:
        return self.length

    def item(self, index: int) -> int:
        self.made.append(index)
        return index * index


def test_it_is_read_as_a_list_is() -> None:
    squares, expected = Squares(10), [index * index for index in range(10)]
    assert list(squares) == expected
    assert (squares[0], squares[-1]) == (expected[0], expected[-1])
    for part in (slice(2, 7), slice(None, None, -3), slice(8, 99), slice(5, 5)):
        assert list(squares[part]) == expected[part]
    assert list(squares[2:9][1:-1:2]) == expected[2:9][1:-1:2]
    for beyond in (10, -11):
        with pytest.raises(IndexError):
            squares[beyond]


def test_nothing_is_made_before_it_is_asked_for() -> None:
    squares = Squares(10)
    part = squares[4:8]
    assert (len(part), squares.made) == (4, [])
    assert part[-1] == 49
    assert squares.made == [7]

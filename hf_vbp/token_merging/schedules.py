"""How many tokens are merged before each block."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from hf_vbp._progress import shown
from hf_vbp.config.levers import MOST_TOKENS
from hf_vbp.errors import ConfigurationError


class Schedule(Protocol):
    """Gives the number of tokens to merge before each block of a model."""

    def counts(self, blocks: int) -> list[int]:
        """Return one number per block; the first is 0, because the keys of the block before are needed."""
        ...


@dataclass(frozen=True)
class ConstantSchedule:
    """Merge the same number of tokens before each block but the first.

    Attributes:
        r: The number of tokens.

    Example:
        >>> ConstantSchedule(8).counts(4)
        [0, 8, 8, 8]
    """

    r: int

    def __post_init__(self) -> None:
        _check("r", self.r)

    def counts(self, blocks: int) -> list[int]:
        """Return the number of tokens before each of ``blocks`` blocks."""
        return [0, *[self.r] * (blocks - 1)]


@dataclass(frozen=True)
class FallingSchedule:
    """Merge more tokens before the first blocks and fewer before the last: from ``2 r`` linearly to 0.

    It merges as many tokens in all as the constant schedule of the same ``r``, and gives a faster model, because later
    blocks have fewer tokens.

    Attributes:
        r: The mean number of tokens over all blocks but the first.

    Example:
        >>> FallingSchedule(8).counts(5)
        [0, 16, 11, 5, 0]
    """

    r: int

    def __post_init__(self) -> None:
        _check("r", self.r)

    def counts(self, blocks: int) -> list[int]:
        """Return the number of tokens before each of ``blocks`` blocks."""
        steps = blocks - 1
        if steps < 2:
            return [0, *[self.r] * steps]
        # Rounded sums, so that the total is exact.
        sums = [round(2 * self.r * (done - done * (done - 1) / 2 / (steps - 1))) for done in range(steps + 1)]
        return [0, *(after - before for before, after in pairwise(sums))]


def counts_of(r: int | Sequence[int] | Schedule, blocks: int) -> list[int]:
    """Return the number of tokens to merge before each block.

    Args:
        r: The number before every block but the first, a list with the number before each block, or a schedule.
        blocks: The number of blocks of the model.

    Raises:
        ConfigurationError: The numbers are not whole and at least 0, are not one per block, or do not begin with 0.
    """
    if isinstance(r, int):
        return ConstantSchedule(r).counts(blocks)
    given = list(r) if isinstance(r, Sequence) and not isinstance(r, str) else None
    if given is None and not hasattr(r, "counts"):
        raise ConfigurationError(f"r is {r!r}, expected a whole number, a list with one per block, or a schedule.")
    counts = given if given is not None else r.counts(blocks)  # type: ignore[union-attr]
    for count in counts:
        _check("r of a block", count)
    if len(counts) != blocks or counts[0]:
        raise ConfigurationError(
            f"r is {counts!r}, expected one number for each of {blocks} blocks, and 0 for the first: tokens are "
            "merged by the keys of the block before."
        )
    return counts


def tokens_per_block(counts: Sequence[int], tokens: int, leading: int) -> list[int]:
    """Return the number of tokens that each block computes.

    Args:
        counts: The number of tokens to merge before each block.
        tokens: The number of tokens without merging, the leading ones included.
        leading: The number of class, distillation and register tokens, which are not merged. At most half of the
            others are merged at once.

    Example:
        >>> tokens_per_block([0, 8, 8], tokens=17, leading=1)
        [17, 9, 5]
    """
    found = []
    for count in counts:
        tokens -= min(count, (tokens - leading) // 2)
        found.append(tokens)
    return found


def _check(name: str, value: object) -> None:
    if type(value) is not int or not 0 <= value <= MOST_TOKENS:
        raise ConfigurationError(
            f"{name} is {shown(value)}, expected a whole number of tokens from 0 to {MOST_TOKENS:,}."
        )

"""Limits of the widths that hold for every plan."""

from dataclasses import dataclass

from hf_vbp._progress import shown
from hf_vbp.errors import ConfigurationError

SCOPES = ("global", "layer")
AUTO = "auto"
"""The multiple of the widths is measured on the device."""


@dataclass(frozen=True)
class Limits:
    """Floor and rounding of the widths.

    Attributes:
        minimum_width: Neurons that every site keeps. One by default; 0 allows MLPs without neurons, which are
            constants.
        round_to: Widths are multiples of this where the site allows it (8 or 32 suits most accelerators).

    Raises:
        ConfigurationError: ``minimum_width`` is negative, or ``round_to`` is below 1.
    """

    minimum_width: int = 1
    round_to: int = 1

    def __post_init__(self) -> None:
        for name, lowest in (("minimum_width", 0), ("round_to", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < lowest:
                other = " With 'auto' it is measured." if name == "round_to" else ""
                raise ConfigurationError(
                    f"{name} must be a whole number of at least {lowest}, got {shown(value)}.{other}"
                )

    def floor(self, intermediate_size: int) -> int:
        """Return the least width of a site whose dense width is ``intermediate_size``."""
        return min(intermediate_size, self.minimum_width)

    def rounded(self, width: int, intermediate_size: int) -> int:
        """Return the allowed width nearest to ``width``, never above the dense one nor below the floor."""
        if self.round_to == 1 or width == intermediate_size:
            return width
        nearest = int(width / self.round_to + 0.5) * self.round_to
        lowest = -(-self.floor(intermediate_size) // self.round_to) * self.round_to
        return min(max(nearest, lowest), intermediate_size)

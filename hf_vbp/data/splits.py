"""Choose the split of a data set."""

import re
from collections.abc import Sequence

from hf_vbp.errors import ConfigurationError, DataError

_PREFERRED = {
    "calibration": ("calibration", "train", "training"),
    "evaluation": ("evaluation", "validation", "valid", "val", "test"),
}


def plain_split(split: str) -> str:
    """Return the name of a split without the selection of a part of it (``train[:10%]``)."""
    return re.split(r"[\[+]", split)[0]


def choose_split(known: Sequence[str], asked: str | None, purpose: str, name: str) -> str:
    """Return the split to read.

    Args:
        known: The splits of the data set; empty where they are not known.
        asked: The split that was named, None to choose the one that suits the purpose.
        purpose: ``"calibration"`` or ``"evaluation"``.
        name: The name of the data set for an error.

    Raises:
        DataError: There is no such split.
        ConfigurationError: None suits the purpose.
    """
    if asked is not None:
        if known and plain_split(asked) not in known:
            raise DataError(f"The data set {name} has no split {asked!r}: its splits are {', '.join(known)}.")
        return asked
    if len(known) == 1:
        return str(known[0])
    for split in _PREFERRED[purpose]:
        if split in known:
            return split
    raise ConfigurationError(
        f"The split of the data set {name} for {purpose} cannot be determined: name it with split "
        f"({', '.join(known) or 'its splits are not declared'})."
    )

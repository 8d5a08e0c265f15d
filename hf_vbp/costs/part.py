"""The part of a model whose cost is counted: the vision tower, where the model takes texts too."""

from collections.abc import Sequence

from torch import nn

from hf_vbp.adapters.base import MLPSite
from hf_vbp.inputs.batch import forward_names

_TEXTS = "input_ids"
_IMAGES = {"pixel_values", "pixel_values_videos"}
_PACKED_PATCHES = {"hidden_states", "grid_thw"}


def counted_part(model: nn.Module, sites: Sequence[MLPSite]) -> str:
    """Return the name of the vision tower of a model that takes images and texts; ``""`` for the whole model.

    The cost of the rest depends on the texts of the batch, and pruning does not change it. The tower is the outermost
    module that takes images, takes no texts, and holds all sites. Where there is none, the whole model counts.

    Args:
        model: A vision model of transformers.
        sites: Its MLP sites.
    """
    names = forward_names(model)
    if _TEXTS not in names or not _IMAGES & names:
        return ""
    first, *others = (f"{site.layout.down}." for site in sites)
    steps = first.split(".")
    for depth in range(1, len(steps)):
        name = ".".join(steps[:depth])
        if not all(other.startswith(f"{name}.") for other in others):
            break
        names = forward_names(model.get_submodule(name))
        if (_IMAGES & names or names >= _PACKED_PATCHES) and _TEXTS not in names:
            return name
    return ""

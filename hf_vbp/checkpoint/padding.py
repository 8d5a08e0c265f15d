"""For those who must have a checkpoint that plain transformers loads: pad to one width."""

import copy
from typing import Any, TypeVar

from torch import nn

from hf_vbp.errors import ConfigurationError, UnsupportedModelError
from hf_vbp.modeling.config_record import has_real_width, write_widths
from hf_vbp.modeling.modeling_hf_vbp import find_pairs, resize
from hf_vbp.modeling.precision import own_precision

ModelT = TypeVar("ModelT", bound=nn.Module)


def to_stock(model: ModelT, *, width: int | None = None) -> ModelT:
    """Return a copy in which all MLPs are equally wide, so that transformers loads it with no package and no flag.

    Neurons with zero weights are added; they give the same outputs and cost parameters and MACs again, up to those
    of the widest MLP. Only ``intermediate_size`` is left in the config.

    Args:
        model: A pruned model of a family with a real ``intermediate_size``.
        width: The common width; by default that of the widest MLP.

    Raises:
        UnsupportedModelError: The family has no ``intermediate_size`` per block (Swin, ConvNeXt, ...).
        ConfigurationError: ``width`` is less than that of the widest MLP.
    """
    config: Any = model.config
    widths = [pair.fc1.out_features for pair in find_pairs(model)]
    if not widths or not has_real_width(config, len(widths)):
        raise UnsupportedModelError(
            f"{type(model).__name__} has no config.intermediate_size for each of {len(widths)} MLPs, so transformers "
            "cannot load another width than the dense one. Share it with its remote file (trust_remote_code=True)."
        )
    common = max(1, *widths) if width is None else width
    if common < max(widths):
        raise ConfigurationError(f"width is {width}, expected at least {max(widths)}, the width of the widest MLP.")
    with own_precision(model):
        padded = copy.deepcopy(model)
    resize(padded, [common] * len(widths))
    write_widths(padded.config, [common] * len(widths), dense_widths=[common] * len(widths))
    return padded

"""Pad a pruned model to one width, for tools that load checkpoints with plain transformers only."""

from typing import Any, TypeVar

from torch import nn

from hf_vbp.errors import ConfigurationError, UnsupportedModelError
from hf_vbp.modeling.config_record import has_real_width, read_widths, write_widths
from hf_vbp.modeling.modeling_hf_vbp import Record, find_mlps, read_record, resize
from hf_vbp.modeling.precision import own_precision
from hf_vbp.modeling.shared_copy import copy_model

ModelT = TypeVar("ModelT", bound=nn.Module)


def pad_to_uniform_width(model: ModelT, *, width: int | None = None) -> ModelT:
    """Return a copy in which all MLPs have the same width, so that plain transformers loads it.

    The added neurons have zero weights: the outputs are the same, and each MLP costs as many parameters and MACs as
    the widest. Only ``intermediate_size`` remains in the config.

    Args:
        model: A pruned model of a family whose config has one ``intermediate_size`` for all blocks.
        width: The common width; by default that of the widest MLP.

    Raises:
        UnsupportedModelError: The family has no ``intermediate_size`` for all blocks (Swin, ConvNeXt, ...).
        ConfigurationError: ``width`` is less than that of the widest MLP.

    Example:
        >>> import hf_vbp
        >>> model = hf_vbp.from_pretrained(hf_vbp.sample_model_path())
        >>> hf_vbp.pad_to_uniform_width(model, width=200).config.intermediate_size
        200
    """
    config: Any = model.config
    read_widths(config)
    record = read_record(config)
    mlps = find_mlps(model, record)
    widths = [mlp.width for mlp in mlps]
    if not widths or not has_real_width(config, widths):
        raise UnsupportedModelError(
            f"{type(model).__name__} has no config.intermediate_size for each of {len(mlps)} MLPs, so plain "
            "transformers loads it only with its dense widths. Share it with its modeling file "
            "(trust_remote_code=True)."
        )
    common = max(1, *widths) if width is None else width
    if common < max(widths):
        raise ConfigurationError(f"width is {width}, expected at least {max(widths)}, the width of the widest MLP.")
    with own_precision(model):
        padded = copy_model(model)
    resize(padded, Record((common,) * len(mlps), tuple(mlp.layout for mlp in mlps)))
    write_widths(padded.config, [common] * len(mlps), dense_widths=[common] * len(mlps))
    return padded

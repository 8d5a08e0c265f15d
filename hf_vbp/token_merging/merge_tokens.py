"""Merge similar tokens of a model while it runs."""

from collections.abc import Sequence
from typing import Any

from hf_vbp.errors import UnsupportedModelError
from hf_vbp.modeling import modeling_hf_vbp
from hf_vbp.modeling.config_record import record_merging
from hf_vbp.token_merging.schedules import Schedule, counts_of
from hf_vbp.token_merging.support import why_not_mergeable


def merge_tokens(model: Any, r: int | Sequence[int] | Schedule) -> None:
    """Merge the most similar tokens of a vision transformer in every forward pass, in place (ToMe, ICLR 2023).

    Before each block but the first, the ``r`` pairs of patch tokens with the most similar keys are averaged, so that
    later blocks compute fewer tokens. Class, distillation and register tokens are not merged. No weight changes, and
    the model needs no training. Its config records the numbers, and ``save_pretrained`` and ``from_pretrained`` keep
    them. See docs/token_merging.md.

    Args:
        model: A model of one of the classes listed in docs/token_merging.md, with ``sdpa`` or ``eager`` attention. It
            may be pruned.
        r: The number of tokens to merge before each block but the first; or a list with the number for each block,
            beginning with 0; or a schedule of :mod:`hf_vbp.token_merging.schedules`. At most half of the tokens are
            merged at once. 0 turns merging off.

    Raises:
        UnsupportedModelError: The tokens of this model cannot be merged; the message gives the reason.
        ConfigurationError: ``r`` is not a number of tokens for each block.

    Example:
        >>> import hf_vbp
        >>> model = hf_vbp.from_pretrained(hf_vbp.sample_model_path())
        >>> hf_vbp.merge_tokens(model, 4)
        >>> model.config.vbp["merged_tokens"]
        [0, 4, 4, 4, 4]
        >>> hf_vbp.merge_tokens(model, 0)
    """
    reason = why_not_mergeable(model)
    if reason is not None:
        raise UnsupportedModelError(reason)
    tower = modeling_hf_vbp.find_tower(model)
    counts = counts_of(r, len(tower.blocks))  # type: ignore[union-attr]
    modeling_hf_vbp.set_token_merging(model, counts)
    record_merging(model, counts)


def merged_tokens(model: Any) -> tuple[int, ...]:
    """Return the number of tokens that a model merges before each block; empty where it merges none.

    Args:
        model: Any model.
    """
    return modeling_hf_vbp.merged_tokens(model)

"""The words for the part of a model whose cost was counted."""


def of_part(part: str) -> str:
    """Return the words that name a part after a figure: ``" of the vision tower"``, or nothing for the whole model.

    Args:
        part: Name of the vision tower, where only its cost was counted; see :func:`hf_vbp.costs.part.counted_part`.
    """
    return " of the vision tower" if part else ""

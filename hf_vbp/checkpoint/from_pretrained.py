"""Load a pruned or an ordinary checkpoint strictly."""

import os
from typing import Any

from hf_vbp.checkpoint.transformers_patch import _widths, scoped
from hf_vbp.errors import CheckpointError, HfVbpError


def from_pretrained(path_or_id: str | os.PathLike[str], *, auto_class: Any = None, **kwargs: Any) -> Any:
    """Load a pruned or an ordinary checkpoint, touching transformers for no longer than the call.

    Works after :func:`disable` too, and is stricter than stock loading: a weight that a pruned checkpoint lacks
    is an error, never a random tensor.

    Args:
        path_or_id: A folder, or the name of a repository on the Hub.
        auto_class: What loads it, an auto class or a model class; ``AutoModelForImageClassification`` by default.
        **kwargs: What ``from_pretrained`` of transformers takes: ``dtype``, ``device_map``, ``revision``, ... With
            ``ignore_mismatched_sizes=True`` the head may be a new one (``num_labels``), the rest may not.
            ``trust_remote_code`` is False unless given: code of the checkpoint is not run, and no question is asked.

    Returns:
        The model; with ``output_loading_info=True`` the model and the information.

    Raises:
        CheckpointError: There is no readable checkpoint, its weights do not fit the widths that its config
            records, or weights are missing.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForImageClassification

    auto_class = auto_class or AutoModelForImageClassification
    wants_info = kwargs.pop("output_loading_info", False)
    # None would make transformers ask on the terminal.
    kwargs.setdefault("trust_remote_code", False)
    with scoped():
        try:
            model, info = auto_class.from_pretrained(path_or_id, output_loading_info=True, **kwargs)
        except HfVbpError:
            raise
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(f"{path_or_id} cannot be loaded: {_sentence(error)}") from error
    if _widths(model.config) is not None:
        _check_complete(model, info, path_or_id, kwargs.get("ignore_mismatched_sizes", False))
    return (model, info) if wants_info else model


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split())[:1000] or type(error).__name__


def _check_complete(model: Any, info: dict[str, Any], source: Any, new_head: bool) -> None:
    from hf_vbp.modeling.modeling_hf_vbp import find_pairs

    widths = [pair.fc1.out_features for pair in find_pairs(model)]
    recorded = _widths(model.config)
    if len(widths) == len(recorded or ()) and widths != recorded:
        raise CheckpointError(f"{source}: the model has the widths {widths}, but its config records {recorded}.")
    prefix = f"{model.base_model_prefix}."
    is_backbone = not any(key.startswith(prefix) for key in model.state_dict())
    missing = sorted(
        key
        for key in info["missing_keys"]
        # A backbone taken out of a classifier has a pooler that no classifier has.
        if not (is_backbone and key.startswith("pooler.")) and not (new_head and not key.startswith(prefix))
    )
    if missing:
        raise CheckpointError(
            f"{source} lacks {len(missing)} weights of {type(model).__name__} ({', '.join(missing[:3])}, ...); they "
            "would be random. Load it with the class it was saved from "
            f"({', '.join(model.config.architectures or ['unknown'])}), or pass ignore_mismatched_sizes=True for a "
            "new head."
        )

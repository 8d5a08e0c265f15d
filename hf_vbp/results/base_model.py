"""The section ``base_model``: the dense model."""

from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from hf_vbp.results.redaction import is_local_path


class BaseModel(TypedDict):
    """The dense model that was pruned."""

    id: NotRequired[Annotated[str, "Hub id, or the name of the folder that it was loaded from"]]
    source: NotRequired[Literal["hub", "folder", "sample"]]
    revision: NotRequired[str]
    model_type: str
    architecture: str


def describe_base_model(model: Any, source: str | None = None) -> BaseModel:
    """Return the description of the dense model.

    Args:
        model: The dense model.
        source: The Hub id or folder that it was loaded from; by default ``model.name_or_path``. Only the name of a
            folder is recorded, because its path is private.
    """
    source = source or getattr(model, "name_or_path", "") or ""
    described = BaseModel(model_type=str(model.config.model_type), architecture=type(model).__name__)
    if source == "sample":
        described |= {"id": source, "source": "sample"}
    elif source:
        local = Path(source).exists() or is_local_path(source)
        described |= {"id": Path(source).resolve().name if local else source, "source": "folder" if local else "hub"}
    revision = getattr(model.config, "_commit_hash", None)
    if revision:
        described["revision"] = str(revision)
    return described

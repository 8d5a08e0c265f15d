"""Find the folder of the model that a checkpoint was pruned from; the checkpoint records only its name."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hf_vbp.adapters.identity import weights_fingerprint
from hf_vbp.errors import ConfigurationError, HfVbpError
from hf_vbp.files.layout import CONFIG
from hf_vbp.workflow.loading import LoadedModel, load_model


def was_pruned(model: Any, plan: str | None) -> bool:
    """Return whether a model has the weights that a plan was made for.

    Args:
        model: The model.
        plan: The text of the plan; None where there is none.
    """
    return plan is not None and json.loads(plan).get("weights") == weights_fingerprint(model)


def find_base(checkpoint: str, name: str, plan: str | None, dtype: Any) -> LoadedModel:
    """Load the model that was pruned from the folder of its name, in the current folder or next to the checkpoint.

    Only a model with exactly the weights that were pruned is accepted.

    Args:
        checkpoint: The pruned checkpoint, a folder or a Hub id.
        name: The recorded name of the folder.
        plan: The text of the plan of the checkpoint.
        dtype: The dtype of the checkpoint.

    Raises:
        ConfigurationError: No such folder has these weights; the message gives the option that names it.
    """
    rejected = []
    for folder in _candidates(checkpoint, name):
        try:
            loaded = load_model(str(folder), dtype=dtype)
        except HfVbpError as error:
            rejected.append(f"{folder} cannot be loaded ({error})")
            continue
        if was_pruned(loaded.model, plan):
            return loaded
        rejected.append(f"{folder} does not hold the weights that were pruned")
    found = "; ".join(rejected) or "there is no such folder here or next to the checkpoint"
    raise ConfigurationError(
        f"{checkpoint} was pruned from a folder named {name!r}, and {found}. Add --teacher /path/to/{name}, or train "
        "on labels alone with --teacher none (fields `teacher` of a recipe)."
    )


def _candidates(checkpoint: str, name: str) -> Iterator[Path]:
    # The name comes from a file of the checkpoint: only a plain one is looked up.
    if name in ("", "..") or Path(name).name != name:
        return
    own = Path(checkpoint).expanduser()
    places = [Path(), own.parent] if own.is_dir() else [Path()]
    seen = {own.resolve()}
    for folder in (place / name for place in places):
        if (folder / CONFIG).is_file() and folder.resolve() not in seen:
            seen.add(folder.resolve())
            yield folder

"""The sentence for an optional package that is not installed."""

import re

from hf_vbp._progress import one_line
from hf_vbp.errors import MissingPackageError

# Names in the messages of other libraries that give no command to install the package.
_INSTALL = {
    "FlashAttention2": 'pip install flash-attn; or set "attn_implementation": "sdpa" in its config.json',
    "FlashAttention": 'see https://github.com/Dao-AILab/flash-attention; or set "attn_implementation": "sdpa" in its '
    "config.json",
    "torchdistx": "pip install torchdistx",
    "torch_xla": "pip install torch_xla",
    "torch_npu": "pip install torch_npu",
    "deepspeed": "pip install deepspeed",
}


def missing_package(error: BaseException, needed_by: str) -> MissingPackageError:
    """Return the error for a package that could not be imported, with the command that installs it.

    Args:
        error: The error of the import.
        needed_by: What needs the package, the subject of the sentence.
    """
    reason = one_line(error, 300).rstrip(". ")
    message = f"{needed_by} needs a package that is not installed: {reason}."
    if "pip install" in reason:
        return MissingPackageError(message)
    known = next((line for name, line in _INSTALL.items() if name in reason), None)
    module = getattr(error, "name", None)
    if known is None and module:
        known = f"pip install {str(module).partition('.')[0].replace('_', '-')}"
    return MissingPackageError(message if known is None else f"{message} Install it: {known}.")


def is_missing_package(error: BaseException) -> bool:
    """Return whether an error is about a package that is not installed, also where it is no ``ImportError``."""
    if isinstance(error, ImportError):
        return not str(error.name or "").startswith("hf_vbp")
    return isinstance(error, ValueError) and bool(re.search(r"(?i)\binstall|failed to import", str(error)))

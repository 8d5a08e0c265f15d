"""Check a checkpoint against its receipt: the hashes, and the outputs after loading in a fresh process."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_vbp.errors import CheckpointError
from hf_vbp.hub.files import PushFile


def recorded_hashes(results: Mapping[str, Any]) -> dict[str, str]:
    """Return name to sha256 of the files in the receipt, as far as it names them."""
    rows: Iterable[Mapping[str, Any]] = results.get("receipt", [])
    return {str(name): str(value) for row in rows for name, value in row.get("files", {}).items()}


def differing_files(results: Mapping[str, Any], files: Sequence[PushFile]) -> list[str]:
    """Return the names of files that differ from those in the receipt."""
    recorded = recorded_hashes(results)
    present = {file.path: file.sha256 for file in files}
    return sorted(name for name, sha256 in recorded.items() if present.get(name) != sha256)


def check_receipt(results: Mapping[str, Any], files: Sequence[PushFile]) -> None:
    """Refuse files that differ from those in the receipt.

    Raises:
        CheckpointError: A file was changed or removed since then.
    """
    wrong = differing_files(results, files)
    if wrong:
        raise CheckpointError(
            f"{', '.join(wrong)} differ from the receipt in vbp_results.json: the checkpoint was "
            "changed after it was saved and measured. Save it again, or restore the files."
        )


def check_loads(directory: Path, trust_remote_code: bool = False) -> list[dict[str, Any]]:
    """Load a checkpoint in a fresh process in each applicable way, and return the differences of its outputs.

    Raises:
        CheckpointError: It does not load in one of the ways, its outputs differ, or can run foreign code that
            ``trust_remote_code`` does not allow.
    """
    from hf_vbp.checkpoint.receipt import verify_checkpoint

    return verify_checkpoint(directory, trust_remote_code=trust_remote_code).to_list()

"""Verify a checkpoint: load it in a fresh process and compare its outputs with those of the model in memory."""

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hf_vbp.checkpoint.from_pretrained import from_pretrained
from hf_vbp.checkpoint.isolation import copy_cached_code, offline_environment
from hf_vbp.checkpoint.model_classes import find_model_class
from hf_vbp.checkpoint.reference_outputs import reference_outputs
from hf_vbp.checkpoint.remote_code import RemoteCode, inspect_code, refuse_foreign_code
from hf_vbp.errors import CheckpointError, ConfigurationError
from hf_vbp.files.json_object import read_json_object
from hf_vbp.files.layout import CONFIG, MODELING_FILE, PROCESSORS
from hf_vbp.inputs.batch import count_images, model_inputs, repeat_images
from hf_vbp.inputs.example import example_batch
from hf_vbp.modeling.modeling_hf_vbp import auto_map, merged_tokens, without_merging

WAYS = ("import", "remote_code", "stock")
_SCRIPT = Path(__file__).with_name("fresh_process.py")
_TIMEOUT_SECONDS = 900
_IMAGES = 2
_HUB_ONLY = "AutoBackbone"
_LOADED = (CONFIG, MODELING_FILE, *PROCESSORS)
_WEIGHTS = (".safetensors", ".safetensors.index.json")


@dataclass(frozen=True)
class ReceiptEntry:
    """One way of loading that was verified.

    Attributes:
        way: ``"import"`` (hf_vbp imported, nothing else), ``"remote_code"`` (hf_vbp not importable,
            ``trust_remote_code=True``) or ``"stock"`` (hf_vbp not importable, no flag).
        transformers: The version of transformers that loaded it.
        max_abs_difference: The largest absolute difference of any output to that of the model in memory.
        files: Name to sha256 of the files that were loaded, so that a later change is detected.
        without_merging: Whether the model merges tokens and was compared without merging, as plain transformers loads
            it.
    """

    way: str
    transformers: str
    max_abs_difference: float
    files: dict[str, str] = field(default_factory=dict)
    without_merging: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as a row of the ``receipt`` part of ``vbp_results.json``."""
        row = asdict(self)
        return row if self.without_merging else {name: row[name] for name in row if name != "without_merging"}


@dataclass(frozen=True)
class Receipt:
    """The result of verifying a checkpoint.

    Attributes:
        directory: The folder of the checkpoint.
        entries: One per way of loading; empty where verification was turned off.
    """

    directory: Path
    entries: tuple[ReceiptEntry, ...] = ()

    @property
    def ways(self) -> tuple[str, ...]:
        """The ways by which the checkpoint was loaded."""
        return tuple(entry.way for entry in self.entries)

    def to_list(self) -> list[dict[str, Any]]:
        """Return the ``receipt`` part of ``vbp_results.json``."""
        return [entry.to_dict() for entry in self.entries]


def verify_checkpoint(
    directory: str | os.PathLike[str],
    *,
    ways: Sequence[str] | None = None,
    reference: nn.Module | None = None,
    python: str | os.PathLike[str] | None = None,
    trust_remote_code: bool = False,
) -> Receipt:
    """Load a checkpoint in a fresh, offline process by each way that applies, and compare its outputs.

    The process has no access tokens. Code of the checkpoint that is not the file of this package is refused
    before anything is loaded, unless ``trust_remote_code`` allows it.

    Args:
        directory: The folder of the checkpoint.
        ways: The ways of :data:`WAYS` to try; by default all that apply: ``import`` and ``remote_code`` where the
            config records widths per block, ``import`` and ``stock`` where it records nothing, all three where it
            records merged tokens only. By ``stock`` the checkpoint is compared with the model without merging.
        reference: The model that the checkpoint must equal; by default the checkpoint as loaded in this process.
        python: The interpreter of the fresh process, for instance of an environment with another transformers.
        trust_remote_code: Whether foreign code of the checkpoint may run in the fresh process.

    Returns:
        The receipt, with one entry per way.

    Raises:
        CheckpointError: The checkpoint does not load by one of the ways, gives other outputs, or can run foreign
            code that was not allowed.
        ConfigurationError: ``ways`` names a way that is unknown or does not apply.

    Example:
        >>> import hf_vbp
        >>> hf_vbp.verify_checkpoint(hf_vbp.sample_model_path()).ways
        ('import', 'stock')
    """
    refuse_foreign_code(directory, inspect_code(directory), trust_remote_code)
    if reference is None:
        loader = _loader(_read_config(Path(directory)))
        reference, info = from_pretrained(directory, auto_class=loader, output_loading_info=True)
        if any(key.startswith("pooler.") for key in info["missing_keys"]):
            # A backbone that was saved without a pooler: the new one is random in every process.
            reference.pooler = None
    return take_receipt(reference, directory, ways=ways, python=python, trust_remote_code=trust_remote_code)


def take_receipt(
    model: Any,
    directory: str | os.PathLike[str],
    *,
    ways: Sequence[str] | None = None,
    python: str | os.PathLike[str] | None = None,
    trust_remote_code: bool = False,
    inputs: Mapping[str, Any] | None = None,
) -> Receipt:
    """Compare a saved checkpoint, loaded in a fresh process, with the model that it was saved from.

    Only the model is loaded, so foreign code of a processor or a tokenizer is not refused here.

    Args:
        model: The model in memory; its training mode is not changed.
        directory: The folder of the checkpoint.
        ways: As for :func:`verify_checkpoint`.
        python: As for :func:`verify_checkpoint`.
        trust_remote_code: As for :func:`verify_checkpoint`.
        inputs: A batch on which both are compared; by default one made from the configs.

    Raises:
        CheckpointError: As for :func:`verify_checkpoint`.
        ConfigurationError: As for :func:`verify_checkpoint`.
    """
    folder = Path(directory).absolute()
    code = inspect_code(folder)
    refuse_foreign_code(folder, code.of_model(), trust_remote_code)
    chosen = _choose_ways(folder, ways)
    with tempfile.TemporaryDirectory(prefix="hf-vbp-receipt-") as temporary:
        job_folder = Path(temporary)
        tolerance = _write_job(model, folder, chosen, job_folder, inputs)
        results = _run(job_folder, python, code)
    files = _hashes(folder)
    entries = {result["way"]: _entry(folder, result, tolerance, files) for result in results}
    if "stock" in entries and merged_tokens(model):
        entries["stock"] = replace(entries["stock"], without_merging=True)
    return Receipt(Path(directory), tuple(entries[way] for way in WAYS if way in entries))


def applicable_ways(directory: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return the ways by which the checkpoint in a folder should load.

    Raises:
        CheckpointError: There is no readable config, or it names a modeling file that the folder lacks.
    """
    folder = Path(directory)
    config = _read_config(folder)
    code = inspect_code(folder)
    lacking = [name for name in code.files if not (folder / name).is_file()]
    if lacking:
        raise CheckpointError(f"{folder}: auto_map in {CONFIG} names {', '.join(lacking)}, which does not exist.")
    records = list(_records(config))
    if not records:
        return ("import", "stock")
    ways = ("import", "remote_code") if code.names_model and _has_loader(config) else ("import",)
    # Without merging, the weights fit the classes of transformers.
    merges_only = all(isinstance(record, dict) and "widths" not in record for record in records)
    return (*ways, "stock") if merges_only else ways


def _records(config: dict[str, Any]) -> Iterator[Any]:
    """Yield the records of a config and of those inside it (of a tower, of a backbone)."""
    if "vbp" in config:
        yield config["vbp"]
    for value in config.values():
        if isinstance(value, dict) and "model_type" in value:
            yield from _records(value)


def _has_loader(config: dict[str, Any]) -> bool:
    # AutoBackbone loads from the Hub only; and some classes belong to no auto class.
    names = {str(value).rpartition(".")[2] for key, value in config["auto_map"].items() if key != _HUB_ONLY}
    return not config.get("architectures") or config["architectures"][0] in names


def _choose_ways(folder: Path, ways: Sequence[str] | None) -> tuple[str, ...]:
    possible = applicable_ways(folder)
    if ways is None:
        return possible
    unknown = [way for way in ways if way not in possible]
    if unknown or not ways:
        raise ConfigurationError(
            f"{folder} cannot be loaded by {', '.join(unknown) or 'an empty list of ways'}; expected some of "
            f"{', '.join(possible)}."
        )
    return tuple(ways)


def _read_config(folder: Path) -> dict[str, Any]:
    return read_json_object(folder / CONFIG, "Expected the config of a checkpoint.")


def _loader(config: dict[str, Any]) -> Any:
    import transformers

    architectures = config.get("architectures") or [None]
    return find_model_class(architectures[0], config.get("model_type")) or transformers.AutoModel


def _loader_name(model: Any) -> str:
    name = type(model).__name__
    for auto_class, reference in auto_map(model.config).items():
        if reference.rpartition(".")[2] == name and auto_class != _HUB_ONLY:
            return auto_class
    return name


def _write_job(
    model: Any, folder: Path, ways: tuple[str, ...], job_folder: Path, batch: Mapping[str, Any] | None
) -> float:
    from safetensors.torch import save_file

    parameter = next(model.parameters())
    # Two images, because the kernels for one depend on where its tensors are in memory.
    given = example_batch(model, _IMAGES) if batch is None else batch
    taken = model_inputs(model, repeat_images(given, _IMAGES) if count_images(given, model) == 1 else given)
    tensors = {key: _copy(value) for key, value in taken.items() if isinstance(value, torch.Tensor)}
    options = {key: value for key, value in taken.items() if isinstance(value, bool | int | float | str)}
    outputs = reference_outputs(model, {**tensors, **options})
    with without_merging(model):
        stock = reference_outputs(model, {**tensors, **options})
    save_file(outputs, job_folder / "reference.safetensors")
    save_file(stock, job_folder / "stock.safetensors")
    save_file(tensors, job_folder / "inputs.safetensors")
    job = {
        "directory": str(folder),
        "ways": ways,
        "references": {
            way: str(job_folder / f"{'stock' if way == 'stock' else 'reference'}.safetensors") for way in ways
        },
        "inputs": str(job_folder / "inputs.safetensors"),
        "options": options,
        "loader": _loader_name(model),
        "architecture": type(model).__name__,
        "module": type(model).__module__,
        "module_path": _module_path(type(model)),
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "device": str(parameter.device),
        "attn_implementation": model.config._attn_implementation,
        "threads": torch.get_num_threads(),
        "package": str(Path(__file__).parents[2]),
    }
    (job_folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    shutil.copyfile(_SCRIPT, job_folder / "fresh_process.py")
    scale = max(1.0, *(float(value.abs().max()) for value in outputs.values()))
    return scale * (1e-4 if torch.finfo(parameter.dtype).bits >= 32 else 5e-2)


def _module_path(cls: type) -> str | None:
    """Return the folder from which a fresh process imports a class of the user's own; None for other classes.

    Raises:
        CheckpointError: It is defined in a script or a notebook.
    """
    name = cls.__module__
    if name.partition(".")[0] in ("transformers", "transformers_modules", "hf_vbp"):
        return None
    file = getattr(sys.modules.get(name), "__file__", None)
    if name == "__main__" or file is None:
        raise CheckpointError(
            f"{cls.__name__} is defined in a script or a notebook ({name}), so no other process can import "
            "it to verify the checkpoint. Move the class to a module, or save with verify=False."
        )
    path = Path(file).resolve()
    levels = name.count(".") + (path.name == "__init__.py")
    return str(path.parents[levels])


def _copy(value: torch.Tensor) -> torch.Tensor:
    # Tensors that share memory cannot be written.
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)


def _run(job_folder: Path, python: str | os.PathLike[str] | None, code: RemoteCode) -> list[dict[str, Any]]:
    command = [str(python or sys.executable), str(job_folder / "fresh_process.py"), str(job_folder / "job.json")]
    environment = offline_environment(job_folder)
    copy_cached_code(code.repositories, environment)
    try:
        # Without a standard input, no question about remote code can be answered on behalf of the user.
        process = subprocess.run(
            command, cwd=job_folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=_TIMEOUT_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CheckpointError(f"The checkpoint could not be loaded in a fresh process: {error}") from error
    result = job_folder / "result.json"
    if process.returncode or not result.is_file():
        raise CheckpointError(
            f"The process that loaded the checkpoint ended with code {process.returncode}: {process.stderr[-2000:]}"
        )
    results: list[dict[str, Any]] = json.loads(result.read_text(encoding="utf-8"))
    return results


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    loaded = [path for path in files if path.name in _LOADED or path.name.endswith(_WEIGHTS)]
    hashes = {}
    for path in loaded:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        hashes[path.name] = digest.hexdigest()
    return hashes


def _entry(folder: Path, result: dict[str, Any], tolerance: float, files: dict[str, str]) -> ReceiptEntry:
    way = result["way"]
    if "error" in result:
        raise CheckpointError(f"{folder} does not load by the way {way!r} in a fresh process: {result['error']}")
    difference = float(result["max_abs_difference"])
    if not math.isfinite(difference) or difference > tolerance:
        raise CheckpointError(
            f"{folder}, loaded by the way {way!r} in a fresh process, gives outputs that differ by {difference:.3g} "
            f"from those in memory, expected at most {tolerance:.3g}. The weights on disk are not the model's."
        )
    return ReceiptEntry(way, result["transformers"], difference, files)

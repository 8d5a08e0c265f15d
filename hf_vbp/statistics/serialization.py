"""The file of statistics: one safetensors file, replaced atomically, and read without running anything."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from hf_vbp._progress import one_line
from hf_vbp.errors import StatisticsError
from hf_vbp.files.atomic import atomic_write
from hf_vbp.files.wrong_file import content_of, missing_or_special
from hf_vbp.statistics.checked_tensors import CheckedTensors
from hf_vbp.statistics.elimination_curve import EliminationCurve
from hf_vbp.statistics.lever_measurements import are_lever_measurements
from hf_vbp.statistics.moments import Moments
from hf_vbp.statistics.site_statistics import SiteStatistics

FORMAT = "hf_vbp.statistics"
VERSION = 1


def _is_a(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


def _is_positive(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_metric(value: Any) -> bool:
    if value is None:
        return True
    return isinstance(value, dict) and type(value.get("seed")) is int and isinstance(value.get("output", ""), str)


def _is_model(value: Any) -> bool:
    names = ("id", "revision", "model_type", "architecture")
    return isinstance(value, dict) and all(isinstance(value.get(name), str | None) for name in names)


def _is_sketch(value: Any) -> bool:
    return isinstance(value, list) and all(type(entry) is int for entry in value)


REQUIRED: dict[str, Callable[[Any], bool]] = {
    "weights": _is_a(str),
    "model": _is_model,
    "dtype": _is_a(str),
    "data": _is_a(dict),
    "images": _is_positive,
    "tokens": _is_positive,
    "moments": lambda value: value in ("diagonal", "full"),
    "output_metric": _is_metric,
    "image_sketch": _is_sketch,
}
OPTIONAL: dict[str, Callable[[Any], bool]] = {
    "token_weights": lambda value: value in (None, "gradient"),
    "curves": _is_a(dict),
    "versions": _is_a(dict),
    "lever_measurements": are_lever_measurements,
}


def save_statistics(sites: Sequence[SiteStatistics], fingerprints: Mapping[str, Any], path: Path) -> None:
    """Write statistics to ``path``, replacing an existing file only when everything is on disk.

    Tensors by site, float64 unless stated: ``sites.I.count`` ``()`` int64, ``.mean`` and ``.m2`` ``(hidden,)``,
    ``.comoment`` ``(hidden, hidden)``; the same four of ``sites.I.weighted`` and ``sites.I.halves.H``, the second half
    without co-moments; ``sites.I.metric`` ``(out, out)``; ``sites.I.curve.order`` int64 and ``.costs``, ``(hidden,)``;
    ``sites.I.saliency`` ``(hidden,)``.

    Raises:
        StatisticsError: The file cannot be written.
    """
    tensors: dict[str, torch.Tensor] = {}
    for site in sites:
        tensors.update(_moments_tensors(f"sites.{site.index}", site.moments))
        if site.metric is not None:
            tensors[f"sites.{site.index}.metric"] = site.metric
        if site.weighted is not None:
            tensors.update(_moments_tensors(f"sites.{site.index}.weighted", site.weighted))
        for name, tensor in ({} if site.curve is None else site.curve.to_tensors()).items():
            tensors[f"sites.{site.index}.curve.{name}"] = tensor
        if site.saliency is not None:
            tensors[f"sites.{site.index}.saliency"] = site.saliency
        for number, half in enumerate(site.halves or ()):
            tensors.update(_moments_tensors(f"sites.{site.index}.halves.{number}", half))
    described = dict(fingerprints)
    if sites and sites[0].curve is not None:
        described["curves"] = dict(sites[0].curve.options)
    description = {"sites": [site.name for site in sites], "fingerprints": described}
    write_atomically(tensors, description, path, FORMAT)


def load_statistics(path: Path, *, values: bool = True) -> tuple[tuple[SiteStatistics, ...], dict[str, Any]]:
    """Read a file of statistics and check every tensor of it.

    Args:
        path: The file. Its tensors are mapped: each is read from the disk when it is used.
        values: Whether to check the values of the tensors too; not for files that were checked before.

    Raises:
        StatisticsError: The file is missing, damaged, of another kind or version, or its content is not consistent;
            the message names the tensor or the fingerprint.
    """
    description, tensors = read_checked(path, FORMAT)
    names = description.get("sites")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise StatisticsError(f"{path} does not name its sites. Gather the statistics again.")
    fingerprints = _checked_fingerprints(path, description.get("fingerprints"))
    options = fingerprints.pop("curves", None)
    reader = CheckedTensors(path, tensors, values=values)
    sites = tuple(_read_site(reader, name, index, fingerprints, options) for index, name in enumerate(names))
    reader.finish()
    if fingerprints["tokens"] != sites[0].moments.count:
        raise reader.error(f"sites.0.count is {sites[0].moments.count}, but the fingerprint {fingerprints['tokens']}")
    if len({site.saliency is None for site in sites}) > 1:
        raise reader.error("only some of the sites have a saliency")
    return sites, fingerprints


def write_atomically(tensors: dict[str, torch.Tensor], description: dict[str, Any], path: Path, kind: str) -> None:
    """Write a safetensors file next to ``path``, force it to disk, and rename it over ``path``.

    Raises:
        StatisticsError: The folder does not exist, is not writable, or is full; ``path`` is unchanged.
    """
    metadata = {"format": kind, "version": str(VERSION), "description": json.dumps(description)}
    contiguous = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    try:
        atomic_write(path, lambda new: save_file(contiguous, new, metadata=metadata))
    except (OSError, SafetensorError) as error:
        raise StatisticsError(f"Cannot write {path}: {error}. Choose another place or free some space.") from error


def read_checked(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the description and the tensors of a file that :func:`write_atomically` wrote.

    Raises:
        StatisticsError: The file is missing, damaged, or of another kind or version.
    """
    reason = missing_or_special(path)
    if reason is not None:
        raise StatisticsError(f"{path} cannot be read: {reason}. Expected a file that hf_vbp wrote ({kind}).")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != kind:
                raise StatisticsError(
                    f"Expected a file of kind {kind}, but {path} is of kind {_short(metadata.get('format'))}."
                )
            if metadata.get("version") != str(VERSION):
                raise StatisticsError(
                    f"{path} has version {_short(metadata.get('version'))}, but this hf_vbp reads version {VERSION}. "
                    "Use a matching hf_vbp, or gather the statistics again."
                )
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
            description = json.loads(metadata["description"])
    except StatisticsError:
        # It is a ValueError too, and is not of a damaged file.
        raise
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(description, dict):
        raise StatisticsError(f"{path} is damaged: its description is not an object. Gather the statistics again.")
    return description, tensors


def _short(text: str | None) -> str:
    return one_line(ValueError(text), 60) if text else "unknown"


def _unreadable(path: Path, error: Exception) -> StatisticsError:
    found = content_of(path)
    if found is None or "safetensors" in found:
        return StatisticsError(f"{path} is damaged: {one_line(error)}. Gather the statistics again.")
    advice = " A plan is given to --plan." if "plan" in found else ""
    return StatisticsError(
        f"{path} is {found}, not a file of statistics.{advice} Give the file that `hf-vbp stats` or "
        "`ActivationStatistics.save` wrote."
    )


def _moments_tensors(prefix: str, moments: Moments) -> dict[str, torch.Tensor]:
    tensors = {
        f"{prefix}.count": torch.tensor(moments.count, dtype=torch.int64),
        f"{prefix}.mean": moments.mean,
        f"{prefix}.m2": moments.m2,
    }
    if moments.comoment is not None:
        tensors[f"{prefix}.comoment"] = moments.comoment
    return tensors


def _read_site(
    reader: CheckedTensors, name: str, index: int, fingerprints: Mapping[str, Any], curve_options: Any
) -> SiteStatistics:
    prefix, full = f"sites.{index}", fingerprints["moments"] == "full"
    moments = reader.moments(prefix, None, full)
    hidden = moments.hidden
    metric = None if fingerprints["output_metric"] is None else reader.metric(f"{prefix}.metric")
    halves = None
    if reader.holds(f"{prefix}.halves."):
        with_comoment = reader.holds(f"{prefix}.halves.0.comoment")
        if with_comoment and not full:
            raise reader.error(f"{prefix}.halves.0 has co-moments, but {prefix} has none")
        first, second = (
            reader.moments(f"{prefix}.halves.{number}", hidden, with_comoment and number == 0) for number in (0, 1)
        )
        if first.count + second.count > moments.count:
            raise reader.error(f"the halves of {prefix} have more tokens than the total of {moments.count}")
        halves = (first, second)
    weighted = None
    if fingerprints.get("token_weights") is not None:
        weighted = reader.moments(f"{prefix}.weighted", hidden, True)
        if weighted.count != moments.count:
            raise reader.error(f"{prefix}.weighted.count is {weighted.count}, but {prefix}.count {moments.count}")
    curve = None
    if curve_options is not None:
        curve = _read_curve(reader, f"{prefix}.curve", hidden, curve_options)
    saliency = reader.take(f"{prefix}.saliency", (hidden,)) if reader.holds(f"{prefix}.saliency") else None
    return SiteStatistics(name, index, moments, metric, halves, weighted, curve, saliency)


def _read_curve(reader: CheckedTensors, prefix: str, hidden: int, options: Mapping[str, Any]) -> EliminationCurve:
    tensors = {
        "order": reader.take(f"{prefix}.order", (hidden,), torch.int64),
        "costs": reader.take(f"{prefix}.costs", (hidden,)),
    }
    try:
        return EliminationCurve.from_tensors(tensors, options)
    except StatisticsError as error:
        raise reader.error(f"{prefix}: {error}") from error


def _checked_fingerprints(path: Path, fingerprints: Any) -> dict[str, Any]:
    if not isinstance(fingerprints, dict):
        raise StatisticsError(f"{path} has no fingerprints. Gather the statistics again.")
    missing = [key for key in REQUIRED if key not in fingerprints]
    if missing:
        raise StatisticsError(f"{path} lacks the fingerprints {', '.join(missing)}. Gather the statistics again.")
    for key, is_valid in {**REQUIRED, **OPTIONAL}.items():
        if key in fingerprints and not is_valid(fingerprints[key]):
            raise StatisticsError(
                f"{path}: the fingerprint {key} has the invalid value {json.dumps(fingerprints[key])[:60]}. Gather "
                "the statistics again."
            )
    return fingerprints

"""One safetensors file: statistics written beside and renamed, read back without running anything."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from hf_vbp.errors import StatisticsError
from hf_vbp.files.atomic import atomic_write
from hf_vbp.statistics.elimination_curve import EliminationCurve
from hf_vbp.statistics.moments import Moments
from hf_vbp.statistics.site_statistics import SiteStatistics

FORMAT = "hf_vbp.statistics"
VERSION = 1
REQUIRED = ("weights", "model", "dtype", "data", "images", "tokens", "moments", "output_metric", "image_sketch")


def save_statistics(sites: Sequence[SiteStatistics], fingerprints: Mapping[str, Any], path: Path) -> None:
    """Write statistics to ``path``, replacing what is there only when everything is on disk.

    Tensors by site, float64 where nothing else is said: ``sites.I.count`` ``()`` int64, ``.mean`` and ``.m2``
    ``(hidden,)``, ``.comoment`` ``(hidden, hidden)``; the same four of ``sites.I.weighted`` and
    ``sites.I.halves.H``, the second half without co-moments; ``sites.I.metric`` ``(out, out)``;
    ``sites.I.curve.order`` int64 and ``.costs``, ``(hidden,)``; ``sites.I.saliency`` ``(hidden,)``.

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


def load_statistics(path: Path) -> tuple[tuple[SiteStatistics, ...], dict[str, Any]]:
    """Read a file of statistics and check every tensor of it.

    Raises:
        StatisticsError: The file is missing, damaged, of another kind or version, or what it holds is not
            consistent; the message names the tensor.
    """
    description, tensors = read_checked(path, FORMAT)
    fingerprints, names = description.get("fingerprints"), description.get("sites")
    if not isinstance(fingerprints, dict) or not isinstance(names, list) or not names:
        raise StatisticsError(f"{path} does not name its sites and fingerprints; gather the statistics again")
    missing = [key for key in REQUIRED if key not in fingerprints]
    if missing:
        raise StatisticsError(f"{path} lacks the fingerprints {', '.join(missing)}; gather the statistics again")
    full = fingerprints["moments"] == "full"
    with_metric = fingerprints["output_metric"] is not None
    options = fingerprints.pop("curves", None)
    sites = tuple(
        _read_site(path, tensors, name, index, full, with_metric, options)
        for index, name in enumerate(map(str, names))
    )
    held = [site.weighted is not None for site in sites]
    if held != [fingerprints.get("token_weights") is not None] * len(sites):
        raise StatisticsError(f"{path}: weighted moments are missing or not expected; gather the statistics again")
    if tensors:
        raise StatisticsError(f"{path} holds tensors that belong to no site: {', '.join(sorted(tensors)[:3])}")
    return sites, fingerprints


def write_atomically(tensors: dict[str, torch.Tensor], description: dict[str, Any], path: Path, kind: str) -> None:
    """Write a safetensors file next to ``path``, force it to disk, and rename it over ``path``.

    Raises:
        StatisticsError: The folder does not exist, is not writable, or is full; ``path`` is as it was.
    """
    metadata = {"format": kind, "version": str(VERSION), "description": json.dumps(description)}
    contiguous = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    try:
        atomic_write(path, lambda new: save_file(contiguous, new, metadata=metadata))
    except (OSError, SafetensorError) as error:
        raise StatisticsError(f"cannot write {path}: {error}; choose another place or free some space") from error


def read_checked(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the description and the tensors of a file that :func:`write_atomically` wrote.

    Raises:
        StatisticsError: The file is missing, damaged, or of another kind or version.
    """
    if not path.is_file():
        raise StatisticsError(f"{path} is not a file; expected one that hf_vbp wrote ({kind})")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != kind:
                raise StatisticsError(
                    f"{path} is not a file of kind {kind}, but {metadata.get('format') or 'unknown'}"
                )
            if metadata.get("version") != str(VERSION):
                raise StatisticsError(
                    f"{path} has version {metadata.get('version')}, this hf_vbp reads version {VERSION}; use a "
                    "matching hf_vbp or gather the statistics again"
                )
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
            description = json.loads(metadata["description"])
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise StatisticsError(f"{path} is damaged: {error}; gather the statistics again") from error
    if not isinstance(description, dict):
        raise StatisticsError(f"{path} is damaged: its description is not an object; gather the statistics again")
    return description, tensors


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
    path: Path,
    tensors: dict[str, torch.Tensor],
    name: str,
    index: int,
    full: bool,
    with_metric: bool,
    curve_options: Any,
) -> SiteStatistics:
    prefix = f"sites.{index}"
    moments = _read_moments(path, tensors, prefix, full)
    metric = None
    if with_metric:
        metric = _take(path, tensors, f"{prefix}.metric", 2)
        _check_square(path, f"{prefix}.metric", metric, metric.shape[0])
    halves = None
    if f"{prefix}.halves.0.count" in tensors:
        with_comoment = f"{prefix}.halves.0.comoment" in tensors
        halves = tuple(
            _read_moments(path, tensors, f"{prefix}.halves.{number}", with_comoment and number == 0)
            for number in (0, 1)
        )
        if any(half.hidden != moments.hidden for half in halves):
            raise StatisticsError(f"{path}: the halves of {prefix} do not have its {moments.hidden} neurons")
    weighted = None
    if f"{prefix}.weighted.count" in tensors:
        weighted = _read_moments(path, tensors, f"{prefix}.weighted", True)
        if weighted.hidden != moments.hidden:
            raise StatisticsError(f"{path}: {prefix}.weighted does not have its {moments.hidden} neurons")
    curve = _read_curve(path, tensors, f"{prefix}.curve.", moments.hidden, curve_options)
    saliency = None
    if f"{prefix}.saliency" in tensors:
        saliency = _take(path, tensors, f"{prefix}.saliency", 1)
        if len(saliency) != moments.hidden:
            raise StatisticsError(f"{path}: {prefix}.saliency does not have its {moments.hidden} neurons")
    both = (halves[0], halves[1]) if halves else None
    return SiteStatistics(name, index, moments, metric, both, weighted, curve, saliency)


def _read_curve(
    path: Path, tensors: dict[str, torch.Tensor], prefix: str, hidden: int, options: Any
) -> EliminationCurve | None:
    held = {name.removeprefix(prefix): tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}
    if not held:
        return None
    try:
        curve = EliminationCurve.from_tensors(held, options if isinstance(options, dict) else {})
    except StatisticsError as error:
        raise StatisticsError(f"{path}: {prefix.rstrip('.')}: {error}") from error
    if len(curve.order) != hidden:
        raise StatisticsError(f"{path}: {prefix}order is of {len(curve.order)} neurons, the site has {hidden}")
    return curve


def _read_moments(path: Path, tensors: dict[str, torch.Tensor], prefix: str, full: bool) -> Moments:
    count = tensors.pop(f"{prefix}.count", None)
    if count is None or count.shape != () or count.dtype != torch.int64 or int(count) < 1:
        raise StatisticsError(f"{path}: {prefix}.count is missing or not a positive int64 number")
    mean = _take(path, tensors, f"{prefix}.mean", 1)
    m2 = _take(path, tensors, f"{prefix}.m2", 1)
    if m2.shape != mean.shape:
        raise StatisticsError(f"{path}: {prefix}.m2 has {m2.shape[0]} neurons, {prefix}.mean {mean.shape[0]}")
    if bool((m2 < 0).any()):
        raise StatisticsError(f"{path}: {prefix}.m2 holds negative sums of squares")
    comoment = None
    if full:
        comoment = _take(path, tensors, f"{prefix}.comoment", 2)
        _check_square(path, f"{prefix}.comoment", comoment, mean.shape[0])
    return Moments(int(count), mean, m2, comoment)


def _take(path: Path, tensors: dict[str, torch.Tensor], name: str, dimensions: int) -> torch.Tensor:
    tensor = tensors.pop(name, None)
    if tensor is None or tensor.dtype != torch.float64 or tensor.dim() != dimensions:
        found = "missing" if tensor is None else f"{tensor.dtype} of shape {tuple(tensor.shape)}"
        raise StatisticsError(f"{path}: {name} must be a float64 tensor of {dimensions} dimensions, and is {found}")
    if not bool(torch.isfinite(tensor).all()):
        raise StatisticsError(f"{path}: {name} holds NaN or infinity")
    return tensor


def _check_square(path: Path, name: str, matrix: torch.Tensor, size: int) -> None:
    if matrix.shape != (size, size):
        raise StatisticsError(f"{path}: {name} has shape {tuple(matrix.shape)}, expected {(size, size)}")

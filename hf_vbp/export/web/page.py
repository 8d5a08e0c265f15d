"""``write_page``: the page, transformers.js and the list of models, written into an exported folder."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from hf_vbp.errors import CheckpointError, UnsupportedModelError
from hf_vbp.export.web.npm import PACKAGES, NpmPackage, fetch_packages
from hf_vbp.files.atomic import check_space, hidden_folder
from hf_vbp.files.json_object import read_json_object
from hf_vbp.files.layout import CONFIG, IMAGE_PROCESSOR

INDEX, DESCRIPTION, VENDOR, DENSE = "index.html", "page.json", "vendor", "dense"
# Name of the precision in transformers.js to its file.
PRECISIONS = {"fp32": "onnx/model.onnx", "q8": "onnx/model_quantized.onnx"}
_FORMAT, _VERSION = "hf_vbp.page", 1
_LICENSE = "LICENSE-onnxruntime.txt"
# Larger models do not fit in the memory of a page.
_LARGEST = 2 * 10**9


def write_page(
    folder: str | os.PathLike[str],
    dense: str | os.PathLike[str] | None = None,
    *,
    title: str | None = None,
    tarballs: Sequence[str | os.PathLike[str]] = (),
    packages: Sequence[NpmPackage] = PACKAGES,
) -> list[str]:
    """Write a page that runs an exported image classifier in the browser.

    The page, transformers.js and ONNX Runtime are written into the folder, so that any static web server can serve it;
    nothing is loaded from other hosts. ``index.html`` is written last.

    Args:
        folder: An exported folder: ``config.json``, ``preprocessor_config.json``, and ``onnx/model.onnx``,
            ``onnx/model_quantized.onnx`` or both.
        dense: The exported folder of the dense model, for comparison; it is copied to ``dense/``.
        title: Title of the page.
        tarballs: Tarballs of transformers.js and onnxruntime-web, instead of a download.
        packages: The versions of both.

    Returns:
        The names of all files that the page needs, those of the models included.

    Raises:
        CheckpointError: A folder is not an exported one, or holds an ``index.html`` of another origin.
        UnsupportedModelError: A model is no image classifier, or is too large for a page.
        MissingPackageError: transformers.js cannot be downloaded.
        ConfigurationError: A tarball is not of the expected version.

    Example:
        >>> from hf_vbp.export.web import write_page
        >>> write_page("exported", dense="exported-dense")  # doctest: +SKIP
    """
    target = Path(folder)
    models = [_describe(target, ".", "Pruned" if "vbp" in _read(target, CONFIG) else "Model")]
    sources = [(target, models[0])]
    if dense is not None:
        models.append(_describe(Path(dense), DENSE, "Dense"))
        sources.append((Path(dense), models[1]))
    _check_target(target)
    copied = [(Path(dense or ""), name) for name in _model_names(models[1])] if dense is not None else []
    fetched = fetch_packages(tarballs, packages)
    needed = sum((source / name).stat().st_size for source, name in copied)
    needed += sum(path.stat().st_size for path in fetched.values())
    check_space(target, target, needed, CheckpointError)
    with hidden_folder(target / INDEX, target) as hidden:
        new = hidden / "new"
        _write_static(new)
        for name, path in fetched.items():
            _copy(path, new / VENDOR / name)
        for source, name in copied:
            _copy(source / name, new / DENSE / name)
        own = sorted(path.relative_to(new).as_posix() for path in new.rglob("*") if path.is_file())
        names = [*own, DESCRIPTION, *_model_names(models[0])]
        description = {
            "format": _FORMAT,
            "version": _VERSION,
            "title": title or _title(target),
            "packages": {package.name: package.version for package in packages},
            "models": models,
            "files": names,
        }
        (new / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
        _put_in_place(new, target, [*own, DESCRIPTION])
    return names


def check_classifier(architecture: str, source: str | os.PathLike[str]) -> None:
    """Refuse a model that the page cannot show; call it before an export.

    Args:
        architecture: The name of its class.
        source: Where it is from, for the message.

    Raises:
        UnsupportedModelError: It is no image classifier.
    """
    if "ForImageClassification" not in architecture:
        raise UnsupportedModelError(
            f"{source} holds {architecture or 'a model without architectures'}; the page shows the classes of image "
            "classifiers only. Export it without --web."
        )


def page_files(folder: str | os.PathLike[str]) -> list[str]:
    """Return the names of all files of a page that :func:`write_page` wrote.

    Raises:
        CheckpointError: The folder has no page, or lacks one of its files.
    """
    target = Path(folder)
    description = _read(target, DESCRIPTION)
    names = description.get("files")
    if description.get("format") != _FORMAT or not isinstance(names, list):
        raise CheckpointError(f"{target / DESCRIPTION} was not written by hf-vbp. Write the page again (--web).")
    for name in names:
        path = target / str(name)
        if not path.is_file() or not path.resolve().is_relative_to(target.resolve()):
            raise CheckpointError(f"{path} is missing, or is not in the folder. Write the page again (--web).")
    return [str(name) for name in names]


def recorded_page_files(folder: str | os.PathLike[str]) -> frozenset[str]:
    """Return the names of the files of a page that belong to no model in the folder itself; empty without a page.

    Unlike with :func:`page_files`, files may be missing.

    Raises:
        CheckpointError: ``page.json`` cannot be read.
    """
    target = Path(folder)
    if not (target / DESCRIPTION).is_file():
        return frozenset()
    description = _read(target, DESCRIPTION)
    names = description.get("files")
    if description.get("format") != _FORMAT or not isinstance(names, list):
        return frozenset()
    own = {CONFIG, IMAGE_PROCESSOR, *PRECISIONS.values()}
    return frozenset({DESCRIPTION, *map(str, names)} - own)


def _describe(folder: Path, place: str, name: str) -> dict[str, Any]:
    config = _read(folder, CONFIG)
    _read(folder, IMAGE_PROCESSOR)
    check_classifier(_architecture(config), folder)
    files = [
        {"dtype": dtype, "path": path, "bytes": (folder / path).stat().st_size}
        for dtype, path in PRECISIONS.items()
        if (folder / path).is_file()
    ]
    if not files:
        raise CheckpointError(
            f"{folder} holds neither {' nor '.join(PRECISIONS.values())}. Export the model first: "
            "hf-vbp export DIR --format onnx"
        )
    for path in (folder / str(file["path"]) for file in files):
        if path.stat().st_size > _LARGEST or _has_external_data(path):
            raise UnsupportedModelError(
                f"{path} has more than 2 GB, or its weights in a second file, which is too much "
                "for a page. Export it without --web."
            )
    return {"name": name, "folder": place, "files": files}


def _architecture(config: Mapping[str, Any]) -> str:
    return str(next(iter(config.get("architectures") or []), ""))


def _has_external_data(model: Path) -> bool:
    return any(model.with_name(f"{model.name}{suffix}").exists() for suffix in ("_data", ".data"))


def _model_names(model: Mapping[str, Any]) -> list[str]:
    return [CONFIG, IMAGE_PROCESSOR, *(str(file["path"]) for file in model["files"])]


def _title(folder: Path) -> str:
    return f"Image classification with {_architecture(_read(folder, CONFIG)).partition('For')[0]}"


def _check_target(folder: Path) -> None:
    if (folder / INDEX).exists() and not (folder / DESCRIPTION).exists():
        raise CheckpointError(
            f"{folder / INDEX} was not written by hf-vbp, so it is not replaced; nothing was changed. Move it "
            "elsewhere."
        )


def _read(folder: Path, name: str) -> dict[str, Any]:
    return read_json_object(folder / name, "Give a folder that `hf-vbp export` wrote.")


def _write_static(new: Path) -> None:
    for entry in resources.files("hf_vbp.export.web").joinpath("static").iterdir():
        place = new / VENDOR / entry.name if entry.name == _LICENSE else new / entry.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(entry.read_bytes())


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _put_in_place(new: Path, target: Path, names: Sequence[str]) -> None:
    for name in sorted(names, key=lambda name: name == INDEX):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(new / name, target / name)

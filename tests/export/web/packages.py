"""Small packages of npm and an exported folder, made here."""

import base64
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_vbp.export.web import NpmPackage

CONFIG = {"model_type": "vit", "architectures": ["ViTForImageClassification"], "vbp": {"version": 2}}
FILES = {
    "@huggingface/transformers": {
        "package/dist/transformers.min.js": "transformers.min.js",
        "package/LICENSE": "LICENSE-transformers.js.txt",
    },
    "onnxruntime-web": {
        "package/dist/ort-wasm-simd-threaded.mjs": "ort-wasm-simd-threaded.mjs",
        "package/dist/ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
    },
}


def make_tarball(path: Path, members: Mapping[str, str]) -> str:
    """Write a tarball whose files hold the names that they are kept under; returns its integrity."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for member, content in {**members, "package/package.json": "{}"}.items():
            entry = tarfile.TarInfo(member)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content.encode()))
    return f"sha512-{base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()}"


def make_packages(folder: Path) -> tuple[list[NpmPackage], list[Path]]:
    """The two packages of the page, and their tarballs, named as ``npm pack`` names them."""
    packages, tarballs = [], []
    for name, members in FILES.items():
        tarball = folder / NpmPackage(name, "1.0.0", "", members).tarball
        packages.append(NpmPackage(name, "1.0.0", make_tarball(tarball, members), members))
        tarballs.append(tarball)
    return packages, tarballs


def make_export(folder: Path, *models: str, **changes: Any) -> Path:
    """An exported folder whose models are only their names."""
    (folder / "onnx").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}), encoding="utf-8")
    (folder / "preprocessor_config.json").write_text("{}", encoding="utf-8")
    for model in models or ("model.onnx",):
        (folder / "onnx" / model).write_text(model, encoding="utf-8")
    return folder

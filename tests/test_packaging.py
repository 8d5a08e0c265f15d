"""The wheel and the source distribution, as they would be published."""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="the dev extra is not installed")

ROOT = Path(__file__).parents[1]
BUILD = "import sys; from hatchling import build; print(getattr(build, sys.argv[1])(sys.argv[2]))"


def build(kind: str, source: Path, target: Path) -> Path:
    target.mkdir(exist_ok=True)
    ran = subprocess.run(
        [sys.executable, "-c", BUILD, f"build_{kind}", str(target)],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return target / ran.stdout.split()[-1]


def tracked(*patterns: str) -> set[str]:
    """Return the files of the source that match, without caches."""
    return {
        path.relative_to(ROOT).as_posix()
        for pattern in patterns
        for path in ROOT.glob(pattern)
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def unpacked_sdist(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(target, filter="data")
    (folder,) = target.iterdir()
    return folder


@pytest.fixture(scope="module")
def wheel(unpacked_sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution as installers do."""
    return build("wheel", unpacked_sdist, tmp_path_factory.mktemp("wheel"))


def test_the_source_distribution_is_complete(unpacked_sdist: Path) -> None:
    files = {path.relative_to(unpacked_sdist).as_posix() for path in unpacked_sdist.rglob("*") if path.is_file()}
    needed = tracked("hf_vbp/**/*", "tests/**/*.py", "recipes/**/*", "docs/**/*.md", "benchmarks/**/*.py")
    needed |= {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "Makefile", "constraints.txt", "PKG-INFO"}
    assert needed <= files
    assert not [name for name in files if "__pycache__" in name or name.startswith((".venv", ".git/"))]


def test_the_wheel_holds_the_package_its_data_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    files = {name for name in names if ".dist-info/" not in name}
    recipes = {f"hf_vbp/{name}" for name in tracked("recipes/**/*")}
    assert files == tracked("hf_vbp/**/*") | recipes
    data = {"hf_vbp/__init__.pyi", "hf_vbp/py.typed", "hf_vbp/card/template.md", "hf_vbp/data/imagenet_wnids.txt",
            "hf_vbp/modeling/modeling_hashes.txt", "hf_vbp/sample/model.safetensors",
            "hf_vbp/recipes/sample/recipe.yaml", "hf_vbp/recipes/accelerate/fsdp.yaml"}  # fmt: skip
    assert data <= files
    assert [name for name in files if name.endswith(".schema.json")]


def test_the_metadata_of_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
        scripts = archive.read(next(name for name in names if name.endswith("/entry_points.txt"))).decode()
    assert "Requires-Python: >=3.11" in metadata
    assert "License-Expression: Apache-2.0" in metadata
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert "hf-vbp = hf_vbp.cli:main" in scripts


def test_python_versions_agree_everywhere() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lowest = settings["project"]["requires-python"].removeprefix(">=")
    listed = re.findall(r"Python :: (3\.\d+)", "\n".join(settings["project"]["classifiers"]))
    assert listed == ["3.11", "3.12", "3.13"]
    assert listed[0] == lowest
    assert settings["tool"]["ruff"]["target-version"] == f"py{lowest.replace('.', '')}"
    assert f"With Python {lowest} or newer" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.processes
def test_the_wheel_works_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    commands = (
        [
            "-c",
            "import hf_vbp; print(hf_vbp.__file__); hf_vbp.VBPConfig, hf_vbp.load_images, hf_vbp.DistillationTrainer",
        ],
        ["-m", "hf_vbp", "recipes", "--json", "--output", "copied"],
        ["-m", "hf_vbp", "prune", "sample", "--data", "sample", "--ratio", "0.5", "--output", "pruned", "--quiet"],
    )
    shown = []
    for command in commands:
        ran = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr[-3000:]
        shown.append(ran.stdout)
    assert Path(shown[0].strip()).is_relative_to(tmp_path / "site")
    copied = {path.relative_to(tmp_path / "copied").as_posix() for path in (tmp_path / "copied").rglob("*.*")}
    assert copied == {name.removeprefix("recipes/") for name in tracked("recipes/*/*")}
    assert (tmp_path / "pruned/vbp_results.json").is_file()

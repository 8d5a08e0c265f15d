"""Packages of npm: by npm itself, from a registry on the loopback interface, and from a local tarball."""

import os
import sys
from pathlib import Path

import pytest

from hf_vbp.errors import ConfigurationError, MissingPackageError, OutputError
from hf_vbp.export.web import PACKAGES, NpmPackage, fetch
from tests.export.web.helpers import served
from tests.export.web.packages import make_packages, make_tarball


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no npm."""
    monkeypatch.setattr("huggingface_hub.constants.HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name in [name for name in os.environ if name.lower() == "npm_config_registry"]:
        monkeypatch.delenv(name)
    return tmp_path / "assets"


@pytest.fixture
def package(tmp_path: Path) -> NpmPackage:
    return make_packages(tmp_path / "tarballs")[0][0]


@pytest.fixture
def tarball(tmp_path: Path, package: NpmPackage) -> Path:
    return tmp_path / "tarballs" / package.tarball


def registry(tmp_path: Path, package: NpmPackage, content: bytes) -> Path:
    folder = tmp_path / "registry"
    (folder / package.path).parent.mkdir(parents=True)
    (folder / package.path).write_bytes(content)
    return folder


def install_npm(tmp_path: Path, script: str) -> None:
    """Put a program named npm on the path; it gets the arguments of the real one."""
    program = tmp_path / "bin" / "npm"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nimport shutil, sys\n{script}\n", encoding="utf-8")
    program.chmod(0o755)


def check(found: dict[str, Path], cache: Path) -> None:
    assert {name: path.read_text(encoding="utf-8") for name, path in found.items()} == {
        "transformers.min.js": "transformers.min.js",
        "LICENSE-transformers.js.txt": "LICENSE-transformers.js.txt",
    }
    assert all(path.is_relative_to(cache) for path in found.values())


def test_the_pins_are_exact() -> None:
    assert [(package.name, package.tarball, package.path) for package in PACKAGES] == [
        (
            "@huggingface/transformers",
            "huggingface-transformers-4.3.1.tgz",
            "@huggingface/transformers/-/transformers-4.3.1.tgz",
        ),
        (
            "onnxruntime-web",
            "onnxruntime-web-1.31.0-dev.20260914-8d85527a0.tgz",
            "onnxruntime-web/-/onnxruntime-web-1.31.0-dev.20260914-8d85527a0.tgz",
        ),
    ]
    # 512 bits in base64.
    assert all(len(package.integrity) == len("sha512-") + 88 for package in PACKAGES)


def test_npm_downloads_and_the_cache_keeps(package: NpmPackage, tarball: Path, cache: Path, tmp_path: Path) -> None:
    install_npm(
        tmp_path,
        "assert sys.argv[1:3] == ['pack', '@huggingface/transformers@1.0.0'], sys.argv\n"
        f"shutil.copy({str(tarball)!r}, sys.argv[sys.argv.index('--pack-destination') + 1])",
    )
    check(fetch(package), cache)
    (tmp_path / "bin" / "npm").unlink()
    check(fetch(package), cache)


def test_without_npm_the_registry_of_the_user_is_asked(
    package: NpmPackage, tarball: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(registry(tmp_path, package, tarball.read_bytes())) as url:
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", url)
        check(fetch(package), cache)


def test_other_content_is_refused_and_not_kept(
    package: NpmPackage, tarball: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.tgz"
    make_tarball(other, {"package/dist/transformers.min.js": "malware", "package/LICENSE": ""})
    with served(registry(tmp_path, package, other.read_bytes())) as url:
        monkeypatch.setenv("npm_config_registry", url)
        with pytest.raises(MissingPackageError, match="another sha512 than expected"):
            fetch(package)
    assert not [path for path in cache.rglob("*") if path.is_file()]
    with pytest.raises(ConfigurationError, match=r"other\.tgz is @huggingface/transformers 1\.0\.0.*npm pack"):
        fetch(package, [other])
    check(fetch(package, [other, tarball]), cache)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("sys.exit('npm error code E404')", "npm error code E404"),
        ("", "no file"),
    ],
)
def test_npm_fails(package: NpmPackage, tmp_path: Path, script: str, reason: str) -> None:
    install_npm(tmp_path, script)
    with pytest.raises(MissingPackageError) as error:
        fetch(package)
    assert str(error.value) == (
        f"@huggingface/transformers 1.0.0, which the page needs, cannot be downloaded: {reason}. Download it "
        "elsewhere (npm pack @huggingface/transformers@1.0.0) and give the tarball."
    )


@pytest.mark.parametrize("address", ["file:///etc", "{url}nowhere"])
def test_the_registry_fails(
    package: NpmPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    (tmp_path / "empty").mkdir()
    with served(tmp_path / "empty") as url:
        monkeypatch.setenv("npm_config_registry", address.format(url=url))
        with pytest.raises(MissingPackageError, match="cannot be downloaded: npm is not installed, and "):
            fetch(package)


def test_a_tarball_that_is_missing(package: NpmPackage, tarball: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not a file; expected a tarball"):
        fetch(package, [tarball.with_name("missing.tgz")])


def test_a_cache_that_cannot_be_written(package: NpmPackage, tarball: Path, cache: Path) -> None:
    cache.write_text("a file", encoding="utf-8")
    with pytest.raises(OutputError, match="Set HF_HOME to another folder"):
        fetch(package, [tarball])

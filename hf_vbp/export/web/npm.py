"""Packages of npm: pinned by version and sha512, downloaded once, kept in the cache."""

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from hf_vbp._progress import one_line
from hf_vbp.errors import ConfigurationError, MissingPackageError, OutputError
from hf_vbp.files.atomic import atomic_write

REGISTRY = "https://registry.npmjs.org"
# As npm reads it; npm also reads its own settings.
REGISTRY_VARIABLE = "npm_config_registry"
_TIMEOUT = 600


@dataclass(frozen=True)
class NpmPackage:
    """Files of one version of a package of npm.

    Attributes:
        name: Its name, with its scope.
        version: Its version.
        integrity: The sha512 of its tarball, as registries and lock files give it.
        members: Name in the tarball to name of the kept file.
    """

    name: str
    version: str
    integrity: str
    members: Mapping[str, str]

    @property
    def tarball(self) -> str:
        """The file name that ``npm pack`` gives it."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"

    @property
    def path(self) -> str:
        """Its path on a registry."""
        return f"{self.name}/-/{self.name.rpartition('/')[2]}-{self.version}.tgz"

    def matches(self, tarball: Path) -> bool:
        """Return whether a tarball is this version of the package."""
        digest = hashlib.sha512()
        with tarball.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return self.integrity == f"sha512-{base64.b64encode(digest.digest()).decode()}"


# onnxruntime-web is of the version that this transformers.js was built with.
PACKAGES = (
    NpmPackage(
        "@huggingface/transformers",
        "4.3.1",
        "sha512-5+voSeUCFK6PCKlY15dPhNOKq3/zOTxDN7oC+Wy9dFb1QZ0TSQomZRRy7URRK8YRuUoE9fGMQTTPC5d/pWBJhA==",
        {
            "package/dist/transformers.min.js": "transformers.min.js",
            "package/LICENSE": "LICENSE-transformers.js.txt",
        },
    ),
    NpmPackage(
        "onnxruntime-web",
        "1.31.0-dev.20260914-8d85527a0",
        "sha512-Iy7rtadoBgxS/LLvDr3QW38DB1PNXRnr0GJMcL0TAt7c9qjgVQl83UlGCVyeAnK2InpmW8Uc3PL8XIuqtDeF6g==",
        {
            "package/dist/ort-wasm-simd-threaded.mjs": "ort-wasm-simd-threaded.mjs",
            "package/dist/ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
        },
    ),
)


def fetch(package: NpmPackage, tarballs: Sequence[str | os.PathLike[str]] = ()) -> dict[str, Path]:
    """Return the kept files of a package, from the cache, a local tarball, or the registry of npm.

    Args:
        package: The package.
        tarballs: Tarballs on disk, as ``npm pack`` writes them; the one with the package's sha512 is used.

    Returns:
        Name of the kept file to its path in the cache.

    Raises:
        ConfigurationError: Tarballs are given, and none of them is this version of the package.
        MissingPackageError: It cannot be downloaded.
        OutputError: The cache cannot be written to.
    """
    cache = _cache(package)
    found = {name: cache / name for name in package.members.values()}
    given = _given(package, tarballs)
    if given is None and all(path.is_file() for path in found.values()):
        return found
    if given is not None:
        _unpack(package, given, found)
        return found
    with tempfile.TemporaryDirectory(prefix="hf-vbp-npm-") as folder:
        tarball = Path(folder) / package.tarball
        npm = shutil.which("npm")
        if npm is not None:
            _pack(package, npm, tarball)
        else:
            _download(package, tarball)
        if not package.matches(tarball):
            raise MissingPackageError(
                f"{package.name} {package.version} from the registry has another sha512 than expected, so it is not "
                f"used. Check the registry (npm config get registry), or give the tarball yourself."
            )
        _unpack(package, tarball, found)
    return found


def fetch_packages(
    tarballs: Sequence[str | os.PathLike[str]] = (), packages: Sequence[NpmPackage] = PACKAGES
) -> dict[str, Path]:
    """Return the kept files of all packages; call it before long work that ends with a page.

    Args:
        tarballs: Tarballs on disk, one for each package; none for a download.
        packages: The packages.

    Raises:
        ConfigurationError: As :func:`fetch`.
        MissingPackageError: As :func:`fetch`.
        OutputError: As :func:`fetch`.
    """
    return {name: path for package in packages for name, path in fetch(package, tarballs).items()}


def _cache(package: NpmPackage) -> Path:
    from huggingface_hub import cached_assets_path, constants

    # The hash is part of the name: another content of the same version never meets the files of this one.
    name = f"{package.tarball.removesuffix('.tgz')}-{hashlib.sha256(package.integrity.encode()).hexdigest()[:12]}"
    folder = constants.HF_ASSETS_CACHE
    try:
        return cached_assets_path("hf_vbp", namespace="npm", subfolder=name, assets_dir=folder)
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{folder}, the cache of huggingface_hub, cannot be written to ({one_line(error)}). Set HF_HOME to "
            "another folder."
        ) from error


def _given(package: NpmPackage, tarballs: Sequence[str | os.PathLike[str]]) -> Path | None:
    paths = [Path(tarball) for tarball in tarballs]
    missing = next((path for path in paths if not path.is_file()), None)
    if missing is not None:
        raise ConfigurationError(f"{missing} is not a file; expected a tarball that `npm pack` wrote.")
    match = next((path for path in paths if package.matches(path)), None)
    if match is None and paths:
        raise ConfigurationError(
            f"None of {', '.join(map(str, paths))} is {package.name} {package.version}, by its sha512. Make it with: "
            f"npm pack {package.name}@{package.version}"
        )
    return match


def _pack(package: NpmPackage, npm: str, tarball: Path) -> None:
    command = [npm, "pack", f"{package.name}@{package.version}", "--pack-destination", str(tarball.parent), "--silent"]
    try:
        # In an empty folder, so that no project's settings apply; those of the user do.
        ran = subprocess.run(
            command, cwd=tarball.parent, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _unavailable(package, one_line(error)) from error
    if ran.returncode or not tarball.is_file():
        raise _unavailable(package, one_line(RuntimeError(ran.stderr.strip() or ran.stdout.strip() or "no file")))


def _download(package: NpmPackage, tarball: Path) -> None:
    """Download without npm, which has more settings (accounts, scopes), but is not needed for its content."""
    variable = next((name for name in os.environ if name.lower() == REGISTRY_VARIABLE), None)
    registry = os.environ[variable] if variable else REGISTRY
    address = f"{registry.rstrip('/')}/{package.path}"
    try:
        if not address.startswith(("https://", "http://")):
            raise ValueError(f"{variable} is not the address of a registry")
        with urllib.request.urlopen(address, timeout=60) as answer, tarball.open("wb") as file:
            shutil.copyfileobj(answer, file)
    except (OSError, ValueError) as error:
        raise _unavailable(package, f"npm is not installed, and {one_line(error)}") from error


def _unavailable(package: NpmPackage, reason: str) -> MissingPackageError:
    return MissingPackageError(
        f"{package.name} {package.version}, which the page needs, cannot be downloaded: {reason.rstrip('. ')}. "
        f"Download it elsewhere (npm pack {package.name}@{package.version}) and give the tarball."
    )


def _unpack(package: NpmPackage, tarball: Path, found: Mapping[str, Path]) -> None:
    with tarfile.open(tarball) as archive:
        for member, name in package.members.items():
            # The sha512 fixes the content, so the member is there.
            with cast(IO[bytes], archive.extractfile(member)) as file:
                atomic_write(found[name], file.read())

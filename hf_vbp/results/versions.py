"""The versions that a result was made with."""

import platform
from importlib import metadata

from hf_vbp._version import __version__

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "evaluate", "huggingface_hub", "numpy", "pillow")


def versions() -> dict[str, str]:
    """Return the versions of Python, of this package and of the packages that it uses."""
    found = {"python": platform.python_version(), "hf_vbp": __version__}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found

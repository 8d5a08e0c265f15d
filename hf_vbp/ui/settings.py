"""What a running page allows: it depends on who can reach it."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hf_vbp._progress import shown
from hf_vbp.errors import ConfigurationError, DataError

MOST_PICTURES = 500
PICTURE_SIZE = "20mb"
FLAVORS = ("cpu-basic", "cpu-upgrade", "cpu-performance", "t4-small", "l4x1", "a10g-small", "a100-large")
SCRIPT = "https://raw.githubusercontent.com/OWNER/hf-vbp/main/scripts/prune.py"
SOURCE = "git+https://github.com/OWNER/hf-vbp"

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_DATA = re.compile(rf"{_ID.pattern}(:[\w.-]+)?")


@dataclass(frozen=True)
class Settings:
    """The limits of a running page.

    Attributes:
        local: Whether only the owner of this machine can reach the page. Then names may be folders, and the Hub is
            used with the stored token.
        space: Whether it runs on a Space, where users log in to use their own tokens.
        memory: Bytes that a model with its statistics may take; None for the memory that is free.
        script: The script that Jobs run, an address or a file.
        source: What the script installs hf_vbp from.
    """

    local: bool = True
    space: bool = False
    memory: int | None = None
    script: str = SCRIPT
    source: str = SOURCE

    @classmethod
    def of(cls, host: str, memory: int | None = None, environ: Mapping[str, str] | None = None) -> "Settings":
        """Return the settings of a page that is served at a host.

        Args:
            host: The address that the server listens on.
            memory: As in :class:`Settings`.
            environ: The environment; by default that of the process.
        """
        environ = os.environ if environ is None else environ
        space = environ.get("SYSTEM") == "spaces"
        return cls(
            local=not space and host in _LOOPBACK,
            space=space,
            memory=memory,
            script=environ.get("HF_VBP_SCRIPT") or SCRIPT,
            source=environ.get("HF_VBP_SOURCE") or SOURCE,
        )

    def token(self, of_user: str | None) -> str | bool | None:
        """Return the token for requests of a user: his own, the stored one on his own machine, otherwise none.

        Args:
            of_user: The token of the user who is logged in on a Space.
        """
        return of_user or (None if self.local else False)

    def check_model(self, name: str) -> str:
        """Return the name of a model without blanks around it.

        Raises:
            ConfigurationError: It is empty, or no id of the Hub where only those are allowed.
        """
        name = name.strip()
        if not name:
            raise ConfigurationError(
                "There is no model: give the id of one on the Hub, such as owner/name, or sample."
            )
        if _is_too_long(name):
            raise ConfigurationError(f"{shown(name)} is too long for the id of a model or a folder; give owner/name.")
        if name == "sample" or self.local or (_ID.fullmatch(name) and not Path(name).exists()):
            return name
        raise ConfigurationError(
            f"{shown(name)} is not the id of a model on the Hub; expected owner/name. Folders are read only by a page "
            "on your own machine: hf-vbp ui."
        )

    def check_data(self, name: str) -> str:
        """Return the name of a data set without blanks around it.

        Raises:
            DataError: It is empty, or no id of the Hub where only those are allowed.
        """
        name = name.strip()
        if not name:
            raise DataError("There are no images: give the id of a data set on the Hub, such as owner/name.")
        if _is_too_long(name):
            raise DataError(f"{shown(name)} is too long for the id of a data set or a folder; give owner/name.")
        if self.local or (_DATA.fullmatch(name) and not Path(name).exists() and not name.endswith(".tar")):
            return name
        raise DataError(
            f"{shown(name)} is not the id of a data set on the Hub; expected owner/name or owner/name:config. Folders "
            "are read only by a page on your own machine: hf-vbp ui."
        )

    def check_sent(self, name: str) -> str:
        """Return the name of a model or a data set that a Job can read.

        Raises:
            ConfigurationError: It is a file or folder of this machine, or no id of the Hub.
        """
        if name == "sample":
            return name
        reads = "a Job reads models and data sets of the Hub only"
        if os.path.exists(os.path.expanduser(name)):
            raise ConfigurationError(f"{shown(name)} is a file or folder of this machine; {reads}. Push it first.")
        if not _DATA.fullmatch(name) or name.endswith(".tar"):
            raise ConfigurationError(f"{shown(name)} is not an id on the Hub; {reads}. Expected owner/name.")
        return name


def _is_too_long(name: str) -> bool:
    # File systems refuse longer names with an error of their own.
    return len(name) > 4000 or max(len(os.fsencode(part)) for part in name.split("/")) > 255

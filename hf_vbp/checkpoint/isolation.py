"""The environment of a child process that may run the code of a checkpoint: no tokens, no way to look them up.

This is not a sandbox: the process runs as the same user, who can read every file by its full path. It keeps code
from finding credentials where libraries and shells keep them.
"""

import os
import re
import shutil
import site
from collections.abc import Iterable, Mapping
from pathlib import Path

# TOKENIZERS_PARALLELISM and the like are settings.
_SECRET_NAMES = re.compile(
    r"TOKEN(?!IZERS)|SECRET|PASSW|PASSPHRASE|(API|ACCESS|PRIVATE)_?KEY|KEY\Z|CREDENTIAL|AUTH|NETRC|ASKPASS|OIDC"
    r"|\A(GIT|XDG)_|\ADBUS_SESSION",
    re.IGNORECASE,
)
_SECRET_VALUES = re.compile(r"hf_[A-Za-z0-9]{16,}|://[^/\s@]+@")
# Each can point into the home of the user, next to the token.
_CACHES = re.compile(r"(HF|HUGGINGFACE|HUGGING_FACE|TRANSFORMERS|PYTORCH_TRANSFORMERS)_\w*CACHE")
# A launcher sets these variables for its workers; a child process that inherits them would wait for the others.
_LAUNCHER_VARIABLES = ("ACCELERATE_", "FSDP_", "MASTER_", "TORCHELASTIC_", "GROUP_RANK", "ROLE_", "LOCAL_")
_WORKER_VARIABLES = frozenset({"RANK", "WORLD_SIZE"})
_REPOSITORY = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def isolated_environment(environment: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return an environment without credentials, whose home and Hugging Face folders are new and empty.

    Args:
        environment: The variables to start from.
        folder: A temporary folder; the new home and caches are created in it.
    """
    kept = {
        name: value
        for name, value in environment.items()
        if not (_SECRET_NAMES.search(name) or _CACHES.fullmatch(name) or _SECRET_VALUES.search(value))
    }
    home, hub_home = folder / "home", folder / "hf_home"
    for path in (home, hub_home):
        path.mkdir(exist_ok=True)
    return {
        **kept,
        # Packages that were installed with `pip install --user` are found by the home otherwise.
        "PYTHONUSERBASE": environment.get("PYTHONUSERBASE") or site.getuserbase(),
        "HOME": str(home),
        "USERPROFILE": str(home),
        "HF_HOME": str(hub_home),
        "HF_HUB_CACHE": str(hub_home / "hub"),
        "HF_TOKEN_PATH": str(hub_home / "token"),
        "HF_STORED_TOKENS_PATH": str(hub_home / "stored_tokens"),
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        # Remote code is copied to a cache; a new one leaves that of the user unmodified and has no stale files.
        "HF_MODULES_CACHE": str(folder / "modules"),
    }


def offline_environment(folder: Path) -> dict[str, str]:
    """Return the environment of a child process that runs alone, offline and without credentials.

    Args:
        folder: A temporary folder, for its home and caches.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in _WORKER_VARIABLES and not name.startswith(_LAUNCHER_VARIABLES)
    }
    return {
        **isolated_environment(inherited, folder),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
    }


def copy_cached_code(repositories: Iterable[str], environment: Mapping[str, str]) -> None:
    """Copy the Python files of repositories from the Hub's cache to that of an isolated environment.

    A repository that is not in the cache is left out: the offline process then reports that it lacks the file.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    for repository in repositories:
        if not _REPOSITORY.fullmatch(repository):
            continue
        name = repo_folder_name(repo_id=repository, repo_type="model")
        source, target = Path(constants.HF_HUB_CACHE) / name, Path(environment["HF_HUB_CACHE"]) / name
        # Snapshots hold links to blobs; the copies are files, so that nothing refers to the cache of the user.
        for path in [*source.glob("refs/**/*"), *source.glob("snapshots/**/*.py")]:
            if path.is_file():
                copy = target / path.relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)

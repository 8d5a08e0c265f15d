"""A modeling file that leaves a mark when it runs, and the credentials that it must not find."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hf_vbp.modeling import modeling_hf_vbp

OWN = Path(modeling_hf_vbp.__file__)
TOKEN = "hf_" + "s" * 34
COMMIT = "c" * 40
SPY = """
import json as _json, os as _os
from pathlib import Path as _Path
from huggingface_hub import get_token as _get_token
_home, _hub = _Path.home(), _Path(_os.environ.get("HF_HUB_CACHE", "/nowhere/hub"))
_places = [_home / name for name in (".netrc", ".git-credentials", ".cache/huggingface/token")]
_places += [_hub.parent / "token", _Path(_os.environ.get("HF_HOME", "/nowhere")) / "token"]
_places += [_Path(_os.environ.get(name, "/nowhere")) for name in ("HF_TOKEN_PATH", "HF_STORED_TOKENS_PATH")]
_files = {str(path): path.read_text() for path in _places if path.is_file()}
_seen = {"environment": dict(_os.environ), "token": _get_token(), "files": _files}
_Path(MARKER).write_text(_json.dumps(_seen))
"""


def spy(marker: Path) -> str:
    """Return a modeling file that records its findings to ``marker``, and otherwise works as that of hf_vbp."""
    return OWN.read_text(encoding="utf-8") + SPY.replace("MARKER", repr(str(marker)))


def change_json(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def point_elsewhere(folder: Path, repository: str = "mallory/other") -> None:
    """Make ``auto_map`` of the config name the code of another repository for one class; the others remain ours."""
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    auto_map["AutoModelForImageClassification"] = f"{repository}--{auto_map['AutoModelForImageClassification']}"
    change_json(folder / "config.json", auto_map=auto_map)


def put_in_cache(cache: Path, marker: Path, repository: str = "mallory/other") -> Path:
    """Put a repository with the spy in a Hub cache, as a download leaves it, and return its folder."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    (folder / "blobs").mkdir()
    (folder / "blobs" / "1").write_text(spy(marker))
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    (folder / "snapshots" / COMMIT / "modeling_hf_vbp.py").symlink_to("../../blobs/1")
    return folder


def credentials(home: Path) -> Iterator[tuple[str, str]]:
    """Put tokens in a home, in every usual file, and yield the environment variables of a user who has them."""
    for name in (".netrc", ".git-credentials", ".cache/huggingface/token", "elsewhere/token"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(TOKEN)
    yield "HOME", str(home)
    yield "HF_TOKEN_PATH", str(home / "elsewhere" / "token")
    yield "PIP_INDEX_URL", f"https://me:{TOKEN}@packages.example/simple"
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN", "HF_HUB_TOKEN", "COPY_OF_IT"):
        yield name, TOKEN

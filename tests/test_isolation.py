"""The environment of a process that may run the code of a checkpoint."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hf_vbp.checkpoint.isolation import copy_cached_code, isolated_environment
from tests.foreign_code import COMMIT, TOKEN, credentials, put_in_cache

SETTINGS = {
    "PATH": "/bin", "CUDA_VISIBLE_DEVICES": "0", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": "/p",
    "HF_ENDPOINT": "https://hub.example", "LD_LIBRARY_PATH": "/lib", "OMP_NUM_THREADS": "1",
}  # fmt: skip


def test_nothing_of_the_user_is_left_but_settings(tmp_path: Path) -> None:
    home = tmp_path / "user"
    secrets = {
        **dict(credentials(home)),
        "AWS_SECRET_ACCESS_KEY": "a", "AWS_ACCESS_KEY_ID": "b", "WANDB_API_KEY": "c", "DB_PASSWORD": "d",
        "SSH_AUTH_SOCK": str(home / "s"), "GOOGLE_APPLICATION_CREDENTIALS": str(home / "g"), "NETRC": str(home / "n"),
        "GIT_CONFIG_VALUE_0": "Authorization: x", "HTTPS_PROXY": "http://me:word@proxy:3128", "HF_OIDC_RESOURCE": "r",
        "HF_HOME": str(home / "hf"), "HF_HUB_CACHE": str(home / "hub"), "HUGGINGFACE_HUB_CACHE": str(home / "hub"),
        "TRANSFORMERS_CACHE": str(home / "t"), "HF_DATASETS_CACHE": str(home / "d"), "XDG_CACHE_HOME": str(home),
        "HF_STORED_TOKENS_PATH": str(home / "stored"),
    }  # fmt: skip
    job = tmp_path / "job"
    job.mkdir()
    environment = isolated_environment({**SETTINGS, **secrets, "PYTHONUSERBASE": "/u"}, job)
    kept = {name: value for name, value in environment.items() if not value.startswith(str(job))}
    assert kept == {**SETTINGS, "PYTHONUSERBASE": "/u", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
    assert Path(environment["HOME"]).is_dir()


def test_huggingface_hub_finds_no_token(tmp_path: Path) -> None:
    script = "import json, huggingface_hub as h; print(json.dumps([h.get_token(), h.constants.HF_TOKEN_PATH]))"
    variables = {"PATH": "/bin", **dict(credentials(tmp_path / "user"))}
    found = []
    for environment in (variables, isolated_environment(variables, tmp_path)):
        ran = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=True)
        found.append(json.loads(ran.stdout))
    assert found[0][0] == TOKEN  # the attack that is prevented
    assert found[1] == [None, str(tmp_path / "hf_home" / "token")]


def test_only_code_is_copied_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, job = tmp_path / "cache" / "hub", tmp_path / "job"
    job.mkdir()
    folder = put_in_cache(cache, tmp_path / "marker")
    (folder / "snapshots" / COMMIT / "private.json").write_text("{}")
    (folder / "snapshots" / COMMIT / "gone.py").symlink_to("../../blobs/2")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    environment = isolated_environment({}, job)
    copy_cached_code(["mallory/other", "mallory/missing", "../up", "a/b/c"], environment)
    copied = [path for path in Path(environment["HF_HUB_CACHE"]).rglob("*") if path.is_file()]
    assert sorted(path.name for path in copied) == ["main", "modeling_hf_vbp.py"]
    assert not any(path.is_symlink() for path in copied)

"""The ways to hf_vbp without an installation: the rules of ``hf`` extensions, the Space, the release."""

import json
import os
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import yaml
from huggingface_hub.cli import extensions

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def test_the_repository_is_an_extension() -> None:
    _, repository, short = extensions._normalize_repo_id("OWNER/hf-vbp")
    assert (repository, short) == ("hf-vbp", "vbp")
    assert extensions._get_executable_name(short).removesuffix(".exe") in PROJECT["scripts"]
    # A file of this name would be taken for the whole extension.
    assert not (ROOT / "hf-vbp").exists()


def test_hf_runs_the_extension(tmp_path: Path) -> None:
    folder = tmp_path / ".local/share/hf/extensions/hf-vbp"
    executable = folder / "venv/bin/hf-vbp"
    executable.parent.mkdir(parents=True)
    executable.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m hf_vbp "$@"\n')
    executable.chmod(0o755)
    extensions.ExtensionManifest(
        "OWNER", "hf-vbp", "OWNER/hf-vbp", "vbp", str(executable), "python", datetime.now(UTC)
    ).save(folder)
    environment = {**os.environ, "HOME": str(tmp_path), "HF_HUB_DISABLE_UPDATE_CHECK": "1", "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-m", "huggingface_hub.cli.hf", "vbp", "inspect", "sample", "--json"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(ran.stdout)["model_type"] == "vit"


def test_the_space_starts_the_tested_versions_with_a_login() -> None:
    front = (ROOT / "space" / "README.md").read_text(encoding="utf-8").split("---")[1]
    card, known = yaml.safe_load(front), constraints()
    assert card["sdk_version"] == known["gradio"]
    assert card["hf_oauth"] is True
    assert set(card["hf_oauth_scopes"]) == {"contribute-repos", "jobs", "gated-repos"}
    requirements = (ROOT / "space" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert f"gradio[oauth]=={known['gradio']}" in requirements
    assert f"torch=={known['torch']}" in requirements
    assert sorted(path.name for path in (ROOT / "space").iterdir() if path.is_file()) == sorted(
        ["README.md", "requirements.txt", card["app_file"]]
    )


def test_a_release_is_built_checked_and_uploaded_without_a_password() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8"))
    build, publish = workflow["jobs"]["build"], workflow["jobs"]["publish"]
    commands = " ".join(step.get("run", "") for step in build["steps"])
    assert all(part in commands for part in ("python -m build", "twine check --strict", "hf-vbp prune sample"))
    assert publish["needs"] == "build"
    assert publish["permissions"] == {"id-token": "write"}
    assert "secrets." not in json.dumps(workflow)

"""The classification of foreign code, and the completeness of the list of known versions."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hf_vbp.checkpoint.remote_code import hash_of, inspect_code, known_hashes, refuse_foreign_code
from hf_vbp.errors import CheckpointError
from scripts import add_modeling_hash
from tests.foreign_code import OWN, change_json

ROOT = Path(__file__).parents[2]
in_a_checkout = pytest.mark.skipif(
    not (ROOT / ".git").exists() or shutil.which("git") is None, reason="needs Git and a checkout"
)
OURS = {"AutoModel": "modeling_hf_vbp.ViTModel"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of a checkpoint that matter here."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", "auto_map": OURS}))
    (tmp_path / "preprocessor_config.json").write_text("{}")
    (tmp_path / "modeling_hf_vbp.py").write_bytes(OWN.read_bytes())
    return tmp_path


def test_the_current_file_is_in_the_list() -> None:
    assert hash_of(OWN.read_bytes()) in known_hashes(), (
        "modeling_hf_vbp.py was changed. Run `python scripts/add_modeling_hash.py` and commit the list, "
        "otherwise checkpoints that are saved from now on count as foreign code."
    )


@in_a_checkout
def test_every_committed_version_is_in_the_list() -> None:
    missing = {hash_of(content) for content, _ in add_modeling_hash.committed_versions(ROOT)} - known_hashes()
    assert not missing, "Run `python scripts/add_modeling_hash.py --history` and commit the list."


def test_the_list_is_plain() -> None:
    rows = [line.split() for line in add_modeling_hash.LIST.read_text().splitlines()]
    assert all(len(digest) == 64 and len(date) == 10 for digest, date in rows)
    assert len({digest for digest, _ in rows}) == len(rows)


def test_a_version_is_added_once(tmp_path: Path) -> None:
    path = tmp_path / "hashes.txt"
    path.write_text("")
    assert add_modeling_hash.add(b"a\n", "2030-01-02", path)
    assert not add_modeling_hash.add(b"a\r\n", "2030-01-03", path)
    # The sha256 of "a" and a line feed, from another program.
    assert path.read_text() == "87428fc522803d31065e7bce3cf03fe475096631e5e07bbd7a0fde60c4cf25c7  2030-01-02\n"


@pytest.mark.parametrize("ends", [b"\n", b"\r\n"])
def test_the_packages_code_is_not_a_finding(folder: Path, ends: bytes) -> None:
    (folder / "modeling_hf_vbp.py").write_bytes(OWN.read_bytes().replace(b"\n", ends))
    change_json(folder / "config.json", label2id={"auto_map": 0}, custom_pipelines={}, vision_config={"auto_map": {}})
    code = inspect_code(folder)
    assert code.findings == ()
    assert code.files == ("modeling_hf_vbp.py",)
    assert code.names_model
    refuse_foreign_code(folder, code, trust_remote_code=False)


@in_a_checkout
def test_earlier_versions_are_the_packages_code(folder: Path) -> None:
    first = "f25d4aa4dc2f26abe17b434a010bbb2aaae44c85:hf_vbp/modeling_hf_vbp.py"
    shown = subprocess.run(["git", "-C", str(ROOT), "show", first], capture_output=True, check=False)
    if shown.returncode:
        pytest.skip("a clone without the first commits")
    (folder / "modeling_hf_vbp.py").write_bytes(shown.stdout)
    assert inspect_code(folder).findings == ()


FOREIGN: dict[str, tuple[str, dict[str, Any]]] = {
    "another repository": ("config.json", {"auto_map": {"AutoModel": "owner/other--modeling_hf_vbp.ViTModel"}}),
    "no class": ("config.json", {"auto_map": {"AutoConfig": "modeling_hf_vbp"}}),
    "another file": ("config.json", {"auto_map": {**OURS, "AutoConfig": "configuration_own.Config"}}),
    "a path": ("config.json", {"auto_map": {"AutoModel": "../modeling_hf_vbp.ViTModel"}}),
    "a pair": ("config.json", {"auto_map": {"AutoTokenizer": [None, "tokens.Fast"]}}),
    "by backend": ("preprocessor_config.json", {"auto_map": {"AutoImageProcessor": {"pil": "own.Processor"}}}),
    "a list": ("tokenizer_config.json", {"auto_map": ["tokens.Slow", None]}),
    "a number": ("config.json", {"auto_map": {"AutoModel": 3}}),
    "a tower": ("config.json", {"auto_map": OURS, "vision_config": {"auto_map": {"AutoModel": "own.Tower"}}}),
    "deep": ("config.json", {"a": [{"b": {"auto_map": {"AutoModel": "x/y--z.Z"}}}]}),
    "processor": ("processor_config.json", {"auto_map": {"AutoProcessor": "x/y--z.Z"}}),
    "video": ("video_preprocessor_config.json", {"auto_map": {"AutoVideoProcessor": "z.Z"}}),
    "a pipeline": ("config.json", {"custom_pipelines": {"t": {"impl": "modeling_hf_vbp.Pipeline"}}}),
    "a kernel": ("config.json", {"attn_implementation": "owner/kernel:forward"}),
    "an adapter": ("adapter_config.json", {"base_model_name_or_path": "owner/other"}),
}


@pytest.mark.parametrize(("name", "changes"), FOREIGN.values(), ids=FOREIGN)
def test_foreign_code_is_found(folder: Path, name: str, changes: dict[str, Any]) -> None:
    if not (folder / name).exists():
        (folder / name).write_text("{}")
    change_json(folder / name, **changes)
    code = inspect_code(folder)
    assert [finding.file for finding in code.findings] == [name]
    assert name in code.summary
    with pytest.raises(CheckpointError, match="Nothing was run"):
        refuse_foreign_code(folder, code, trust_remote_code=False)
    refuse_foreign_code(folder, code, trust_remote_code=True)
    of_model = name in ("config.json", "adapter_config.json")
    assert bool(code.of_model().findings) is of_model


def test_foreign_files_are_found(folder: Path) -> None:
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text("")
    (folder / "preprocessor_config.json").write_text("{")
    (folder / "modeling_hf_vbp.py").write_bytes(OWN.read_bytes() + b"#")
    files = {finding.file for finding in inspect_code(folder).findings}
    assert files == {"custom_generate/generate.py", "preprocessor_config.json", "modeling_hf_vbp.py"}


def test_a_summary_is_short_and_printable(folder: Path) -> None:
    auto_map = {f"Auto\x1b[31m{number}": "x" * 5000 for number in range(2000)}
    change_json(folder / "config.json", auto_map=auto_map)
    code = inspect_code(folder)
    assert len(code.findings) == 2000
    assert len(code.summary) < 2000
    assert "\x1b" not in code.summary
    assert code.summary.endswith("and 1995 more")


@pytest.mark.parametrize("content", [None, "{", "[" * 100_000])
def test_a_config_that_cannot_be_read(folder: Path, content: str | None) -> None:
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        inspect_code(folder)

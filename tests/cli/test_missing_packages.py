"""Packages that hf_vbp does not depend on: one sentence with the command that installs them, before any work."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.helpers import save_images, save_tiny

pytestmark = pytest.mark.processes

# Runs command lines one after the other where these packages cannot be imported; prints exit codes and what they say.
SCRIPT = """
import contextlib, io, json, sys
for name in ("bitsandbytes", "torchao", "flash_attn", "flash_attn_3", "matplotlib", "liger_kernel", "deepspeed",
             "optimum", "gptqmodel", "schedulefree", "grokadamw", "wandb", "gradio"):
    sys.modules[name] = None
from hf_vbp.cli.app import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["hf-vbp", *arguments]
    errors, code = io.StringIO(), 0
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    print(json.dumps([code, " ".join(errors.getvalue().split())]))
"""


def without_packages(folder: Path, *commands: list[str]) -> list[tuple[int, str]]:
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(commands)], cwd=folder, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "Traceback" not in ran.stderr
    return [tuple(json.loads(line)) for line in ran.stdout.splitlines()]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    save_tiny(tmp_path / "model")
    save_images(tmp_path / "images")
    return tmp_path


def variant(work: Path, name: str, **changes: Any) -> str:
    shutil.copytree(work / "model", work / name)
    config = json.loads((work / name / "config.json").read_text())
    (work / name / "config.json").write_text(json.dumps({**config, **changes}))
    return name


def test_models_that_need_a_package(work: Path) -> None:
    cases = [
        (variant(work, "flash", attn_implementation="flash_attention_2"), "Install it: pip install flash-attn"),
        (variant(work, "flash3", attn_implementation="flash_attention_3"), "github.com/Dao-AILab/flash-attention"),
        (
            variant(work, "bnb", quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}),
            "pip install -U bitsandbytes",
        ),
        (
            variant(work, "ao", quantization_config={"quant_method": "torchao", "quant_type": "int8_weight_only"}),
            "pip install torchao",
        ),
        (variant(work, "gptq", quantization_config={"quant_method": "gptq", "bits": 4, "dataset": "c4"}), "optimum"),
    ]
    commands = [["prune", name, "--data", "images", "--ratio", "0.5", "--output", f"{name}-out"] for name, _ in cases]
    commands += [["evaluate", name, "--data", "images"] for name, _ in cases]
    for (code, said), command, (name, says) in zip(
        without_packages(work, *commands), commands, cases * 2, strict=True
    ):
        assert code == 2, command
        assert f"hf-vbp: {name} needs a package that is not installed: " in said
        assert "calibration" not in said.lower()
        assert says in said
        if "quantization_config" in (work / name / "config.json").read_text():
            assert said.endswith("cannot be pruned: name the checkpoint that was quantized.")
        assert not (work / f"{name}-out").exists()


def test_settings_of_a_recipe_are_refused_before_anything_is_loaded(work: Path) -> None:
    cases = {
        "optim=adamw_bnb_8bit": "pip install -U bitsandbytes",
        "optim=adamw_torch_8bit": "pip install torchao",
        "optim=schedule_free_adamw": "pip install schedulefree",
        "optim=grokadamw": "pip install grokadamw",
        "optim=adamw_anyprecision": "Install it: pip install torchdistx",
        "use_liger_kernel=true": "pip install liger-kernel",
        "deepspeed=settings.json": "Install it: pip install deepspeed",
        "report_to=wandb": "pip install wandb",
    }
    # There is no such checkpoint, so anything that is loaded first would be the error.
    commands = [
        ["finetune", "nothing", "--data", "images", "--output", "out", f"training.{setting}", "training.use_cpu=true"]
        for setting in cases
    ]
    for (code, said), (setting, says) in zip(without_packages(work, *commands), cases.items(), strict=True):
        assert code == 2, setting
        assert says in said, said
        assert "unexpected" not in said
        assert said.count("hf-vbp:") == 1
    assert sorted(path.name for path in work.iterdir()) == ["images", "model"]


def test_a_sweep_says_first_that_there_will_be_no_plot(work: Path) -> None:
    command = ["sweep", "model", "--data", "images", "--eval-data", "images", "--ratios", "0.5", "--output", "out"]
    ((code, said),) = without_packages(work, command)
    assert code == 0, said
    assert said.startswith(
        "No plot will be drawn: matplotlib is not installed. Install it with: pip install 'hf-vbp[plot]'"
    )
    assert {path.name for path in (work / "out").iterdir()} == {"statistics.safetensors", "sweep.csv", "sweep.json"}


def test_any_other_missing_package_is_one_sentence(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.cli.helpers import run

    def fails(*_: Any, **__: Any) -> None:
        raise ModuleNotFoundError("No module named 'some_codec.fast'", name="some_codec.fast")

    monkeypatch.setattr("hf_vbp.workflow.loading.load_structure", fails)
    ran = run(["inspect", "sample"], capfd, monkeypatch)
    assert (ran.code, ran.out) == (2, "")
    assert "This command needs a package that is not installed" in ran.err
    assert ran.err.strip().endswith("Install it: pip install some-codec.")


def test_from_python_it_is_an_import_error_too(work: Path) -> None:
    import hf_vbp
    from hf_vbp.errors import MissingPackageError

    name = variant(work, "flash3", attn_implementation="flash_attention_3")
    with pytest.raises(MissingPackageError, match="flash3 needs a package that is not installed") as caught:
        hf_vbp.from_pretrained(work / name)
    assert isinstance(caught.value, ImportError)


def test_the_page_without_gradio(tmp_path: Path) -> None:
    ((code, said),) = without_packages(tmp_path, ["ui"])
    assert code == 2
    assert said.endswith("gradio, which is not installed. Install it: pip install 'hf-vbp[ui]'.")

"""A family of the user's own: config and class outside transformers, MLPs with other names, a criterion of its own."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from transformers import ViTModel

from hf_vbp.checkpoint.receipt import _module_path
from tests.cli.helpers import run as inspect

FAMILY = """
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput


class MyConfig(PretrainedConfig):
    model_type = "my-mixer"

    def __init__(self, width=16, hidden=32, image_size=16, patch_size=8, **others):
        super().__init__(**others)
        self.width, self.hidden, self.image_size, self.patch_size = width, hidden, image_size, patch_size


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.expand, self.shrink = nn.Linear(config.width, config.hidden), nn.Linear(config.hidden, config.width)

    def forward(self, tokens):
        return tokens + self.shrink(torch.nn.functional.gelu(self.expand(tokens)))


class MyMixer(PreTrainedModel):
    config_class = MyConfig
    main_input_name = "pixel_values"

    def __init__(self, config):
        super().__init__(config)
        self.patches = nn.Conv2d(3, config.width, config.patch_size, config.patch_size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(2))
        self.head = nn.Linear(config.width, config.num_labels)
        self.post_init()

    def forward(self, pixel_values, labels=None):
        tokens = self.patches(pixel_values).flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = block(tokens)
        return ImageClassifierOutput(logits=self.head(tokens.mean(1)))


AutoConfig.register("my-mixer", MyConfig)
AutoModelForImageClassification.register(MyConfig, MyMixer)
"""

PRUNE = """
import hf_vbp
import torch
from hf_vbp.adapters import LinearPairAdapter

hf_vbp.register_adapter("my-mixer", LinearPairAdapter(blocks=r"blocks\\.\\d+$", pairs=(("expand", "shrink"),)))
torch.manual_seed(0)
model = MyMixer(MyConfig(num_labels=5)).eval()
pixels = torch.randn(8, 3, 16, 16)
result = hf_vbp.prune(model, [{"pixel_values": pixels}], hf_vbp.VBPConfig(ratio=0.5))
result.save_pretrained("pruned")
print([row["way"] for row in hf_vbp.verify_checkpoint("pruned").to_list()])
torch.save((pixels, result.model(pixels).logits), "outputs.pt")
"""

RELOAD = """
import hf_vbp, my_family, torch
from transformers import AutoModelForImageClassification

pixels, logits = torch.load("outputs.pt")
for load in (AutoModelForImageClassification.from_pretrained, hf_vbp.from_pretrained):
    model = load("pruned").eval()
    assert type(model) is my_family.MyMixer
    assert torch.equal(model(pixels).logits, logits)
"""


def run(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(script, encoding="utf-8")
    return subprocess.run([sys.executable, "script.py"], cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.fixture(autouse=True)
def _this_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


@pytest.mark.processes
def test_a_family_of_a_module_is_pruned_saved_verified_and_reloaded(tmp_path: Path) -> None:
    (tmp_path / "my_family.py").write_text(FAMILY, encoding="utf-8")
    done = run("from my_family import *\n" + PRUNE, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['import']"
    reloaded = run(RELOAD, tmp_path)
    assert reloaded.returncode == 0, reloaded.stderr


def test_the_path_of_a_package_is_that_of_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "vbp_test_package" / "models"
    package.mkdir(parents=True)
    for name in ("__init__.py", "models/__init__.py", "models/own.py"):
        (tmp_path / "vbp_test_package" / name).write_text("class Own: ...", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("vbp_test_package", "vbp_test_package.models", "vbp_test_package.models.own"):
        assert _module_path(import_module(name).Own) == str(tmp_path.resolve())
    assert _module_path(ViTModel) is None


@pytest.mark.processes
def test_a_class_of_a_script_cannot_be_verified(tmp_path: Path) -> None:
    done = run(FAMILY + PRUNE, tmp_path)
    assert "MyMixer is defined in a script or a notebook (__main__), so no other process can import it" in done.stderr
    assert not (tmp_path / "pruned").exists()
    unverified = PRUNE.replace('"pruned")', '"pruned", verify=False)').partition("print(")[0]
    done = run(FAMILY + unverified, tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_command_line_loads_a_registered_class(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "vbp_own_family_of_a_command"
    text = FAMILY.replace("my-mixer", name) + (
        "\nimport hf_vbp\nfrom hf_vbp.adapters import LinearPairAdapter\n"
        f'hf_vbp.register_adapter("{name}", LinearPairAdapter(blocks="blocks", pairs=(("0.expand", "0.shrink"),)))\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    config = {"model_type": name, "architectures": ["MyMixer"], "image_size": 16}
    (tmp_path / "dense").mkdir()
    (tmp_path / "dense/config.json").write_text(json.dumps(config), encoding="utf-8")
    shown = inspect(["inspect", str(tmp_path / "dense"), "--import", name, "--json"], capfd, monkeypatch)
    assert shown.code == 0, shown.err
    assert [site["name"] for site in json.loads(shown.out)["sites"]] == ["blocks.0"]
    config["architectures"] = ["Other"]
    (tmp_path / "dense/config.json").write_text(json.dumps(config), encoding="utf-8")
    refused = inspect(["inspect", str(tmp_path / "dense"), "--import", name], capfd, monkeypatch)
    assert "or one that an imported module (--import MODULE) registers with AutoConfig" in refused.err

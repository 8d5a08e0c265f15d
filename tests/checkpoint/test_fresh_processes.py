"""What only a process of its own can show: without hf_vbp, and with it imported first."""

import json
import os
import subprocess
import sys
from pathlib import Path

import transformers

from tests.checkpoint.helpers import make_pruned
from tests.checkpoint.strangers import same_python, visit

ROOT = Path(__file__).parents[2]
BEFORE_TRANSFORMERS = """
import json, sys
import hf_vbp
assert not {"torch", "transformers", "numpy"} & set(sys.modules), "import hf_vbp is heavy"
from transformers import AutoModelForImageClassification, ViTForImageClassification
model = AutoModelForImageClassification.from_pretrained(sys.argv[1])
print(json.dumps([type(model).__module__, [layer.mlp.fc1.out_features for layer in model.vit.layers]]))
"""
DISABLED_BEFORE_TRANSFORMERS = """
import json, sys
import hf_vbp
hf_vbp.unpatch_transformers()
import transformers.modeling_utils
assert not hasattr(transformers.modeling_utils.PreTrainedModel.post_init, "__wrapped__")
from transformers import AutoModelForImageClassification, ViTForImageClassification
try:
    AutoModelForImageClassification.from_pretrained(sys.argv[1])
except RuntimeError as error:
    assert "per-layer attribute" in str(error)
else:
    raise SystemExit("loaded although disabled")
hf_vbp.patch_transformers()
model = ViTForImageClassification.from_pretrained(sys.argv[1])
print(json.dumps([type(model).__module__, [layer.mlp.fc1.out_features for layer in model.vit.layers]]))
"""
NATIVE = ["transformers.models.vit.modeling_vit", [11, 0, 37]]


def run(code: str, folder: Path) -> object:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(folder)],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout)


def test_imported_before_transformers(tmp_path: Path) -> None:
    make_pruned().save_pretrained(tmp_path)
    assert run(BEFORE_TRANSFORMERS, tmp_path) == NATIVE


def test_disabled_before_transformers(tmp_path: Path) -> None:
    make_pruned().save_pretrained(tmp_path)
    assert run(DISABLED_BEFORE_TRANSFORMERS, tmp_path) == NATIVE


def test_without_the_package(tmp_path: Path) -> None:
    assert visit(same_python(), tmp_path) == transformers.__version__

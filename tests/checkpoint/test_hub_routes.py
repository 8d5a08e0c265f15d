"""The routes to and from a Hub: each leaves the widths, and every file that the config names."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.checkpoint.helpers import WIDTHS
from tests.loopback_hub import LoopbackHub

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
from pathlib import Path
from transformers import AutoModelForImageClassification as Auto, Trainer, TrainingArguments, ViTImageProcessor
import hf_vbp
from tests.checkpoint.helpers import assert_same_outputs, assert_whole, make_pruned

folder = Path(sys.argv[1])
model = make_pruned("deit-teacher")
model.push_to_hub("alice/pushed")

# Files that lie there already are uploaded only if they were written anew.
model.save_pretrained(folder / "saved")
model.save_pretrained(folder / "saved", push_to_hub=True, repo_id="alice/saved")

arguments = TrainingArguments(
    output_dir=str(folder / "trained"), hub_model_id="alice/trained", use_cpu=True, report_to="none", push_to_hub=True
)
processor = ViTImageProcessor(size={"height": 32, "width": 32})
Trainer(model=model, args=arguments, processing_class=processor).push_to_hub()

for name in ("pushed", "saved", "trained"):
    hf_vbp.unpatch_transformers()
    remote = Auto.from_pretrained(f"alice/{name}", trust_remote_code=True)
    assert remote.__class__.__module__.startswith("transformers_modules")
    assert_same_outputs(remote, model)
    assert_same_outputs(hf_vbp.from_pretrained(f"alice/{name}"), model)
    remote.save_pretrained(folder / "again" / name)
    remote.push_to_hub(f"alice/{name}-again")
    hf_vbp.patch_transformers()
    assert_whole(folder / "again" / name, [11, 0, 37])
    assert_same_outputs(Auto.from_pretrained(f"alice/{name}"), model)
    assert_same_outputs(Auto.from_pretrained(f"alice/{name}-again"), model)
"""


def test_push_and_load(tmp_path: Path) -> None:
    with LoopbackHub(xet=False) as hub:
        alice = hub.add_user("alice")
        environment = hub.environment(tmp_path / "home", token=alice.token, HF_MODULES_CACHE=str(tmp_path / "modules"))
        result = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(tmp_path)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr[-4000:]
        for name in ("pushed", "saved", "trained"):
            for repository in (f"alice/{name}", f"alice/{name}-again"):
                check_repository(hub.repositories[repository].files())


def check_repository(files: dict[str, Any]) -> None:
    config = json.loads(files["config.json"])
    assert config["vbp"]["widths"] == WIDTHS
    references = config["auto_map"].values()
    assert {reference.split(".")[0] + ".py" for reference in references} == {"modeling_hf_vbp.py"}
    assert {"modeling_hf_vbp.py", "model.safetensors"} <= files.keys()

"""``Trainer(push_to_hub=True)`` with the callback publishes what ``hf-vbp push`` would, and nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub.helpers import Client
from tests.hub.test_push import FILES, OWN
from tests.loopback_hub import LoopbackHub, User

SCRIPT = """
import sys
import numpy as np, torch
from transformers import Trainer, TrainingArguments
import hf_vbp
from hf_vbp.hub.publish_callback import PublishCallback

pruned, verify = sys.argv[1], sys.argv[2] == "verify"
model = hf_vbp.from_pretrained(pruned)
torch.manual_seed(0)
rows = [{"pixel_values": torch.randn(3, 32, 32), "labels": index % 5} for index in range(8)]
accuracy = lambda result: {"top1": float((result.predictions.argmax(-1) == result.label_ids).mean())}
args = TrainingArguments("run", push_to_hub=True, hub_model_id="alice/tuned", max_steps=2, eval_strategy="steps",
                         eval_steps=1, save_steps=1, per_device_train_batch_size=4, use_cpu=True, report_to="none",
                         disable_tqdm=True, dataloader_pin_memory=False)
callback = PublishCallback(pruned, verify=verify)
trainer = Trainer(model, args, train_dataset=rows, eval_dataset=rows, compute_metrics=accuracy, callbacks=[callback])
trainer.train()
trainer.save_model()
print(callback.result.sentence)
"""


def train(
    hub: LoopbackHub, alice: User, checkpoint: Path, folder: Path, verify: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT, str(checkpoint), verify]
    environment = hub.environment(folder / "home", alice.token, PYTHONPATH=str(Path(__file__).parents[2]))
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("verify", ["quick", pytest.param("verify", marks=pytest.mark.slow)])
def test_the_same_files_and_the_same_card(
    client: Client, xet_hub: LoopbackHub, alice: User, checkpoint: Path, tmp_path: Path, verify: str
) -> None:
    done = train(xet_hub, alice, checkpoint, tmp_path, verify)
    assert done.returncode == 0, done.stderr
    assert alice.token not in done.stdout + done.stderr
    repository = xet_hub.repositories["alice/tuned"]
    assert len(repository.commits) == 2
    files = repository.files()
    assert set(files) == FILES | OWN
    results = json.loads(files["vbp_results.json"])
    assert results["evaluation"]["finetuned"]["images"] == 8
    assert ("receipt" in results) is (verify == "verify")
    assert b"after fine-tuning" in files["README.md"]
    assert client.push(tmp_path / "run" / "final", "alice/tuned")["status"] == "unchanged"


@pytest.mark.slow
def test_a_repository_with_content_is_refused_before_training(
    client: Client, xet_hub: LoopbackHub, alice: User, checkpoint: Path, tmp_path: Path
) -> None:
    client.push(checkpoint, "alice/tuned")
    done = train(xet_hub, alice, checkpoint, tmp_path, "quick")
    assert "already holds" in done.stderr
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").glob("checkpoint-*"))

"""``Trainer(push_to_hub=True)`` with the callback publishes the same files as ``hf-vbp push``, and no others."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import hf_vbp
from tests.hub.helpers import Client
from tests.hub.test_push import FILES, OWN
from tests.loopback_hub import LoopbackHub, User

SCRIPT = """
import sys
import numpy as np, torch
from transformers import Trainer, TrainingArguments
import hf_vbp
from hf_vbp.hub.publish_callback import PublishCallback

pruned, verify, fail = sys.argv[1], sys.argv[2] == "verify", "fail" in sys.argv
model = hf_vbp.from_pretrained(pruned)
torch.manual_seed(0)
rows = [{"pixel_values": torch.randn(3, 32, 32), "labels": index % 5} for index in range(8)]
accuracy = lambda result: {"top1": float((result.predictions.argmax(-1) == result.label_ids).mean())}
args = TrainingArguments("run", push_to_hub=True, hub_model_id="alice/tuned", max_steps=2, eval_strategy="steps",
                         eval_steps=1, save_steps=1, per_device_train_batch_size=4, use_cpu=True, report_to="none",
                         disable_tqdm=True, dataloader_pin_memory=False, bf16="bf16" in sys.argv,
                         hub_token=next((argument for argument in sys.argv if argument.startswith("hf_")), None))
callback = PublishCallback(pruned, verify=verify)
if fail:
    from hf_vbp.checkpoint import saving
    from hf_vbp.errors import CheckpointError

    def refuse(*_, **__):
        raise CheckpointError("The outputs differ.")

    saving.take_receipt = refuse
trainer = Trainer(model, args, train_dataset=rows, eval_dataset=rows, compute_metrics=accuracy, callbacks=[callback])
trainer.train()
trainer.save_model()
print(callback.result.sentence)

# The accuracy of the published model in float32, from the model alone.
final = hf_vbp.from_pretrained("run/final").eval()
with torch.no_grad():
    logits = final(pixel_values=torch.stack([row["pixel_values"] for row in rows])).logits
print("top1", float((logits.argmax(-1) == torch.tensor([row["labels"] for row in rows])).float().mean()))
"""


def train(
    hub: LoopbackHub, alice: User, checkpoint: Path, folder: Path, *options: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT, str(checkpoint), *options]
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
def test_training_in_bfloat16_publishes_a_verified_model_measured_in_float32(
    xet_hub: LoopbackHub, alice: User, checkpoint: Path, tmp_path: Path
) -> None:
    done = train(xet_hub, alice, checkpoint, tmp_path, "verify", "bf16")
    assert done.returncode == 0, done.stderr
    results = json.loads(xet_hub.repositories["alice/tuned"].files()["vbp_results.json"])
    assert [row["max_abs_difference"] for row in results["receipt"]] == [0.0, 0.0]
    assert results["finetuning"]["precision"] == "bf16"
    finetuned = results["evaluation"]["finetuned"]
    assert finetuned["images"] == 8
    # Only evaluate_models measures the top-5 here: the metric of this Trainer gives top-1 alone, in bfloat16.
    assert "top5" in finetuned
    assert f"top1 {finetuned['top1']}" in done.stdout
    assert sorted(path.name for path in (tmp_path / "run").iterdir() if "final" in path.name) == ["final"]


def test_a_model_that_does_not_verify_is_kept_and_not_published(
    xet_hub: LoopbackHub, alice: User, checkpoint: Path, tmp_path: Path
) -> None:
    done = train(xet_hub, alice, checkpoint, tmp_path, "verify", "fail")
    assert done.returncode != 0
    assert "The outputs differ. Training had finished" in done.stderr
    kept = tmp_path / "run" / "final.unverified"
    assert f"unverified, in {kept}. Load it with hf_vbp.from_pretrained" in done.stderr
    assert hf_vbp.from_pretrained(kept).config.vbp["widths"]
    assert (kept / "plan.json").is_file()
    assert not (tmp_path / "run" / "final").exists()
    assert "alice/tuned" not in xet_hub.repositories or len(xet_hub.repositories["alice/tuned"].commits) == 1


def test_the_token_of_the_arguments_is_used_and_reaches_no_file(
    xet_hub: LoopbackHub, alice: User, checkpoint: Path, tmp_path: Path
) -> None:
    done = train(xet_hub, replace(alice, token=""), checkpoint, tmp_path, "quick", alice.token)
    assert done.returncode == 0, done.stderr
    assert set(xet_hub.repositories["alice/tuned"].files()) == FILES | OWN
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {"training_args.bin", "vbp_results.json", "README.md"} <= {path.name for path in written}
    assert [path for path in written if alice.token.encode() in path.read_bytes()] == []


@pytest.mark.slow
def test_a_repository_with_content_is_refused_before_training(
    client: Client, xet_hub: LoopbackHub, alice: User, checkpoint: Path, tmp_path: Path
) -> None:
    client.push(checkpoint, "alice/tuned")
    done = train(xet_hub, alice, checkpoint, tmp_path, "quick")
    assert "already holds" in done.stderr
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").glob("checkpoint-*"))

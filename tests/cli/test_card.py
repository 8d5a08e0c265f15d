"""The card of a checkpoint that the command line pruned and fine-tuned."""

import re
from pathlib import Path

import pytest

from hf_vbp.card.render import make_facts, render_card
from hf_vbp.checkpoint.receipt import Receipt
from hf_vbp.results.record import load_results
from tests.cli.helpers import run, save_images, save_tiny


def test_a_card_after_fine_tuning_tells_pruning_and_training_apart(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_vbp.checkpoint.saving.take_receipt", lambda model, folder, **_: Receipt(Path(folder)))
    monkeypatch.chdir(tmp_path)
    save_tiny(Path("model"))
    save_images(Path("images"))
    Path("short.yaml").write_text(
        "model: pruned\nteacher: model\noutput: tuned\ntraining: {use_cpu: true, max_steps: 1}\n"
        "data:\n  train: {source: images}\n  evaluation: {source: images}\n"
    )
    pruning = ["prune", "model", "--data", "images", "--eval-data", "images", "--ratio", "0.5", "--output", "pruned"]
    training = ["finetune", "short.yaml", "training.learning_rate=1e-4"]
    for arguments in (pruning, training):
        ran = run(arguments, capfd, monkeypatch)
        assert ran.code == 0, ran.err
    card = render_card(make_facts(load_results(tmp_path / "tuned"), repo_id="me/tuned"))
    made = card.partition("## How it was made")[2]
    blocks = re.findall(r"```bash\n(.*?)\n```", made, flags=re.DOTALL)
    assert blocks == [f"hf-vbp {' '.join(command)}" for command in (pruning, training)]
    assert "Then fine-tuned with the recipe short; [`recipe.yaml`](recipe.yaml) has all its settings:" in made
    assert (tmp_path / "tuned" / "recipe.yaml").is_file()
    assert "| predicted output error before fine-tuning |" in card
    assert "Both are of the pruned model before fine-tuning:" in card
    # Without a fine-tuning none of it is there.
    before = render_card(make_facts(load_results(tmp_path / "pruned"), repo_id="me/pruned"))
    assert "fine-tuned" not in before.partition("## Limitations")[2]
    assert "before fine-tuning" not in before
    assert before.count("```bash") == 1

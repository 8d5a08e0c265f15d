"""The description of a fine-tuning run: one for recipes and for the callback, from the real classes."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from transformers import TrainerState, TrainingArguments

from hf_vbp.card.render import make_facts, render_card
from hf_vbp.distillation.arguments import DistillationArguments
from hf_vbp.hub.publish_callback import final_evaluation
from hf_vbp.results.finetuning import describe_run, per_epoch, with_finetuning
from hf_vbp.results.record import parse_results, schema, to_json
from tests.hub.helpers import make_results

HISTORY: list[dict[str, Any]] = [
    {"loss": 2.0, "hard_loss": 1.0, "soft_loss": 3.0, "step": 5, "epoch": 0.5},
    {"loss": 1.0, "hard_loss": 0.5, "soft_loss": 1.5, "step": 10, "epoch": 1.0},
    {"eval_top1": 0.7, "eval_top5": 0.9, "step": 10, "epoch": 1.0},
    {"loss": 1.5, "step": 15, "epoch": 1.5},
    {"eval_top1": 0.6, "step": 20, "epoch": 2.0},
    {"train_runtime": 3.04, "step": 20, "epoch": 2.0},
]


def arguments(kind: type[TrainingArguments] = TrainingArguments, **changes: Any) -> Any:
    settings: dict[str, Any] = {"output_dir": "/home/me/run", "hub_token": "hf_" + "a1" * 17, "use_cpu": True}
    return kind(**{**settings, "learning_rate": 5e-5, "report_to": "none", "seed": 1, **changes})


def state(**changes: Any) -> TrainerState:
    return TrainerState(**{"epoch": 2.0, "global_step": 20, "log_history": HISTORY, **changes})


def test_the_last_evaluation_counts() -> None:
    evaluation = final_evaluation(arguments(), state(), 100)
    assert evaluation is not None
    assert evaluation["top1"] == 0.6
    assert evaluation["top1_interval"][0] < 0.6 < evaluation["top1_interval"][1]
    assert "top5" not in evaluation


def test_the_best_evaluation_counts_where_it_was_restored() -> None:
    args = arguments(load_best_model_at_end=True, eval_strategy="epoch", save_strategy="epoch")
    evaluation = final_evaluation(args, state(best_global_step=10), 100)
    assert evaluation is not None
    assert (evaluation["top1"], evaluation["top5"]) == (0.7, 0.9)


def test_an_accuracy_of_other_weights_is_not_recorded() -> None:
    assert final_evaluation(arguments(), state(global_step=25), 100) is None
    assert final_evaluation(arguments(), state(), None) is None


def test_an_accuracy_in_percent_is_not_recorded() -> None:
    percent = state(log_history=[{"eval_top1": 60.0, "step": 20, "epoch": 2.0}])
    assert final_evaluation(arguments(), percent, 100) is None
    assert per_epoch(percent.log_history) == []


def test_plain_arguments() -> None:
    run = describe_run(arguments(gradient_accumulation_steps=4, warmup_steps=3), state())
    assert (run["epochs"], run["steps"], run["images_per_step"], run["processes"]) == (2.0, 20, 32, 1)
    assert (run["learning_rate"], run["schedule"], run["warmup_steps"], run["seed"]) == (5e-5, "linear", 3, 1)
    assert (run["precision"], run["device"], run["seconds"]) == ("fp32", "cpu", 3.0)
    assert not {"temperature", "hard_label_weight", "label_smoothing", "best_step"} & set(run)
    assert "hf_" + "a1" * 17 not in json.dumps(run)
    assert "/home/me" not in json.dumps(run)


def test_arguments_of_the_project() -> None:
    args = arguments(DistillationArguments, temperature=3.0, hard_label_weight=0.25, soft_loss="cross_entropy")
    run = describe_run(args, state(), teacher={"teacher": "me/dense"}, recipe="r", augmentation="plain", batch_size=8)
    assert (run["temperature"], run["hard_label_weight"], run["soft_loss"]) == (3.0, 0.25, "cross_entropy")
    assert (run["teacher"], run["recipe"], run["augmentation"], run["images_per_step"]) == (
        "me/dense",
        "r",
        "plain",
        8,
    )
    args.has_teacher = False
    assert not {"temperature", "hard_label_weight", "soft_loss"} & set(describe_run(args, state()))


def test_per_epoch() -> None:
    first, second = per_epoch(HISTORY)
    assert first == {"epoch": 1, "loss": 1.5, "hard_loss": 0.75, "soft_loss": 2.25, "top1": 0.7, "top5": 0.9}
    assert second == {"epoch": 2, "loss": 1.5, "top1": 0.6}


def test_results_with_a_run_are_valid_and_shown() -> None:
    run = describe_run(arguments(DistillationArguments), state())
    evaluation = {**make_results()["evaluation"], "finetuned": {"images": 50, "top1": 0.6}}
    results = with_finetuning(
        make_results(),
        run,
        evaluation=evaluation,
        data={"finetuning": {"source": "me/photos", "images": 30}},
        command="hf-vbp finetune /home/me/recipe.yaml training.hub_token=hf_abcdefghijklmnopqrst",
    )
    jsonschema.validate(results, schema())
    assert parse_results(to_json(results)) == results
    assert "receipt" not in results
    assert results["finetuning"]["retention"] == pytest.approx(0.6 / 0.84)
    assert results["finetuning"]["command"] == "hf-vbp finetune recipe.yaml training.hub_token=REDACTED"
    assert results["command"] == make_results()["command"]
    assert set(results["data"]) == {"calibration", "evaluation", "finetuning"}
    card = render_card(make_facts(results, repo_id="me/x"))
    for text in ("after fine-tuning | 50 | 60.0 %", "| temperature | 2 |", "| hard label weight | 0.5 |", "5e-05"):
        assert text in card
    assert "base_model_relation: finetune" in card


def test_figures_of_other_images_give_no_retention() -> None:
    evaluation = {**make_results()["evaluation"], "finetuned": {"images": 8, "top1": 0.6}}
    results = with_finetuning(make_results(), {"steps": 1}, evaluation=evaluation, same_images=False)
    assert results["finetuning"] == {"steps": 1}
    assert Path(__file__).name not in json.dumps(results)

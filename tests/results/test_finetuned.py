"""What a run of ``Trainer`` adds to the results."""

from types import SimpleNamespace
from typing import Any

import jsonschema

from hf_vbp.card.render import make_facts, render_card
from hf_vbp.results.record import schema
from hf_vbp.workflow.finetune.card_record import read_evaluation, with_finetuning
from tests.hub.helpers import make_results


def arguments(**changes: Any) -> SimpleNamespace:
    settings = {"learning_rate": 5e-5, "optim": "adamw_torch", "seed": 1, "bf16": False, "fp16": None}
    secrets = {"hub_token": "secret", "output_dir": "/home/me/run"}
    return SimpleNamespace(**{**settings, **secrets, "world_size": 2, "load_best_model_at_end": False, **changes})


def state(**changes: Any) -> SimpleNamespace:
    history = [
        {"loss": 2.0, "step": 5},
        {"eval_top1": 0.7, "eval_top5": 0.9, "step": 10},
        {"loss": 1.5, "step": 15},
        {"eval_top1": 0.6, "step": 20},
        {"train_runtime": 3.0, "step": 20},
    ]
    return SimpleNamespace(**{"epoch": 2.0, "global_step": 20, "log_history": history, **changes})


def test_the_last_evaluation_counts() -> None:
    evaluation = read_evaluation(arguments(), state(), 100)
    assert evaluation is not None
    assert evaluation["top1"] == 0.6
    assert evaluation["top1_interval"][0] < 0.6 < evaluation["top1_interval"][1]
    assert "top5" not in evaluation


def test_the_best_evaluation_counts_where_it_was_restored() -> None:
    evaluation = read_evaluation(arguments(load_best_model_at_end=True), state(best_global_step=10), 100)
    assert evaluation is not None
    assert (evaluation["top1"], evaluation["top5"]) == (0.7, 0.9)


def test_an_accuracy_of_other_weights_is_not_taken() -> None:
    assert read_evaluation(arguments(), state(global_step=25), 100) is None
    assert read_evaluation(arguments(), state(), None) is None


def test_the_results_stay_within_their_schema_and_hold_no_secret() -> None:
    data = {"source": "me/photos", "images": 30}
    results = with_finetuning(make_results(), arguments(), state(), eval_images=100, data=data)
    jsonschema.validate(results, schema())
    assert results["finetuning"]["last_training_loss"] == 1.5
    assert results["finetuning"]["processes"] == 2
    assert "bf16" not in results["finetuning"]
    assert not {"secret", "/home/me/run"} & {str(value) for value in results["finetuning"].values()}
    card = render_card(make_facts(results, repo_id="me/x"))
    assert "after fine-tuning | 100 | 60.0 %" in card
    assert "base_model_relation: finetune" in card
    assert "learning rate | 5e-05" in card

"""inspect, evaluate, sweep and plan on the command line."""

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from hf_vbp.checkpoint.receipt import Receipt
from hf_vbp.errors import BudgetError
from hf_vbp.results.record import load_results, schema
from tests.cli.helpers import NAMES, run, save_images
from tests.costs.clock import Clock


def test_inspect_lists_the_sites_and_their_shares(hf_vbp: Any, shelf: Path) -> None:
    found = json.loads(hf_vbp("inspect", shelf / "model", "--json").out)
    assert [site["intermediate_size"] for site in found["sites"]] == [48, 48, 48]
    assert 0 < sum(site["parameters"] for site in found["sites"]) < 1
    shown = hf_vbp("inspect", shelf / "model").out
    assert "all MLPs" in shown
    # One of 48 neurons is left in each MLP.
    assert found["reachable"]["ratio"] == pytest.approx(47 / 48)
    assert "At most 141 of the 144 hidden neurons can be removed (97.9 %): each MLP keeps 1." in shown
    for key in ("parameters", "macs"):
        share = sum(site[key] for site in found["sites"])
        assert found["reachable"][key] == pytest.approx(1 - share * 47 / 48)


def test_evaluate_against_itself_agrees_fully(hf_vbp: Any, shelf: Path) -> None:
    options = ["--data", shelf / "labelled", "--base", shelf / "model"]
    found = json.loads(hf_vbp("evaluate", shelf / "model", *options, "--json").out)
    assert found["model"]["agreement"] == 1
    assert found["model"]["kl"] == pytest.approx(0, abs=1e-12)
    assert found["model"]["top1"] == found["base"]["top1"]
    assert "interval" in hf_vbp("evaluate", shelf / "model", *options).out


def test_inspect_never_promises_more_than_a_budget_accepts(hf_vbp: Any, tmp_path: Path) -> None:
    from hf_vbp import VBPConfig
    from hf_vbp.adapters.prepared import prepare_structure
    from hf_vbp.pruning.levers import check_levers
    from hf_vbp.workflow.loading import load_structure

    # The shape of a DeiT-B, of which 99.97 % of the neurons can be removed.
    config = {"model_type": "deit", "architectures": ["DeiTForImageClassification"], "hidden_size": 768,
              "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    shown = hf_vbp("inspect", tmp_path).out
    assert "At most 36852 of the 36864 hidden neurons can be removed (99.9 %): each MLP keeps 1." in shown
    ratio, parameters, macs, merged = (
        float(re.search(pattern, shown)[1]) / 100  # type: ignore[index]
        for pattern in (
            r"\(([\d.]+) %\)",
            r"([\d.]+) % of the parameters",
            r"([\d.]+) % of the MACs remain",
            r"merged tokens too, down to ([\d.]+) % of the MACs",
        )
    )
    prepared = prepare_structure(load_structure(str(tmp_path)))
    for reached, more in (
        ({"ratio": ratio}, {"ratio": ratio + 0.001}),
        ({"target_parameters": parameters}, {"target_parameters": parameters - 0.001}),
        ({"target_macs": macs, "levers": ("mlp",)}, {"target_macs": macs - 0.001, "levers": ("mlp",)}),
        ({"target_macs": merged}, {"target_macs": merged - 0.001}),
    ):
        check_levers(prepared, VBPConfig(**reached))
        with pytest.raises(BudgetError):
            check_levers(prepared, VBPConfig(**more))


def test_labels_are_named_and_mapped_by_files(
    hf_vbp: Any, shelf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import pipeline

    figures = json.loads(hf_vbp("evaluate", shelf / "model", "--data", shelf / "labelled", "--json").out)
    renamed = shutil.copytree(shelf / "labelled", tmp_path / "renamed")
    for name in NAMES:
        (renamed / name).rename(renamed / f"the {name}")
    mapping = tmp_path / "map.json"
    mapping.write_text(json.dumps({f"the {name}": name for name in NAMES}))
    model = shutil.copytree(shelf / "model", tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    config |= {"id2label": {str(index): f"LABEL_{index}" for index in range(len(NAMES))},
               "label2id": {f"LABEL_{index}": index for index in range(len(NAMES))}}  # fmt: skip
    (model / "config.json").write_text(json.dumps(config))
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    pruned = hf_vbp("prune", model, "--data", shelf / "images", "--ratio", "0.5", "--eval-data", shelf / "labelled",
                    "--model-labels", tmp_path / "names.txt", "--output", tmp_path / "pruned", "--json")  # fmt: skip
    # A pipeline of the pruned model answers with the names; the dense model is not changed.
    saved = json.loads((tmp_path / "pruned/config.json").read_text())
    assert saved["id2label"] == {str(index): name for index, name in enumerate(NAMES)}
    assert saved["label2id"] == {name: index for index, name in enumerate(NAMES)}
    assert json.loads((model / "config.json").read_text()) == config
    results = json.loads(pruned.out)
    assert all(entry["max_abs_difference"] == 0 for entry in results["receipt"])
    assert {row["label"] for row in results["evaluation"]["pruned"]["classes"].values()} == set(NAMES)
    classify = pipeline("image-classification", str(tmp_path / "pruned"))
    assert classify(str(next((shelf / "labelled").rglob("*.png"))))[0]["label"] in NAMES
    refused = run(["evaluate", model, "--data", shelf / "labelled"], capfd, monkeypatch)
    assert refused.code != 0
    assert "--model-labels FILE" in " ".join(refused.err.split())
    for arguments in (
        [shelf / "model", "--data", renamed, "--label-map", mapping],
        [model, "--data", shelf / "labelled", "--model-labels", tmp_path / "names.txt"],
        [model, "--data", renamed, "--model-labels", tmp_path / "names.txt", "--label-map", mapping],
    ):
        found = json.loads(hf_vbp("evaluate", *arguments, "--json").out)
        assert found["model"]["top1"] == figures["model"]["top1"]
        assert found["model"]["top5"] == figures["model"]["top5"]


def test_sweep_writes_a_row_per_ratio_and_a_plot(hf_vbp: Any, shelf: Path, tmp_path: Path) -> None:
    ran = hf_vbp("sweep", shelf / "model", "--data", shelf / "images", "--eval-data", shelf / "labelled",
                 "--ratios", "0.2:0.6:0.2", "--output", tmp_path / "sweep")  # fmt: skip
    rows = list(csv.DictReader((tmp_path / "sweep/sweep.csv").read_text().splitlines()))
    assert [float(row["ratio"]) for row in rows] == [0, 0.2, 0.4, 0.6]
    assert [int(row["parameters"]) for row in rows] == sorted((int(row["parameters"]) for row in rows), reverse=True)
    assert (tmp_path / "sweep/sweep.png").stat().st_size > 1000
    assert "retention" in ran.out


def test_plan_shows_the_cost_and_the_latency_of_the_model(
    hf_vbp: Any, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(lambda model, now: model.num_parameters() * 1e-6).install(monkeypatch)
    stats, plan = tmp_path / "stats.safetensors", tmp_path / "plan.json"
    hf_vbp("stats", shelf / "model", "--data", shelf / "images", "--output", stats)
    ran = hf_vbp("plan", shelf / "model", "--statistics", stats, "--target-parameters", "0.8", "--output", plan,
                 "--latency", "--latency-batch", "2", "--threads", "1")  # fmt: skip
    made = json.loads(plan.read_text())
    assert made["latency"]["batch"] == 2
    assert made["latency"]["threads"] == 1
    share = made["cost"]["pruned"]["parameters"] / made["cost"]["dense"]["parameters"]
    assert made["latency"]["speedup"] == pytest.approx(1 / share, rel=1e-3)
    shown = " ".join(ran.out.split())
    for text in ("parameters", "MACs", "weights", "latency, batch 2, float32, 1 thread", "speed 1.2",
                 "budget: parameters, 80.0 % asked, "):  # fmt: skip
        assert text in shown
    # A plan in a file is applied as it is.
    hf_vbp("prune", shelf / "model", "--statistics", stats, "--plan", plan, "--output", tmp_path / "pruned")
    results = load_results(tmp_path / "pruned")
    assert results["cost"] == made["cost"]
    assert results["plan"]["latency"] == made["latency"]
    assert (tmp_path / "pruned/plan.json").read_text() == plan.read_text()
    jsonschema.validate(results, schema())
    # A time in milliseconds.
    dense = made["cost"]["dense"]["parameters"] * 1e-3
    clock.passes = 0
    ran = hf_vbp("plan", shelf / "model", "--statistics", stats, "--target-latency", f"{0.8 * dense:.4f}ms", "--json")
    made = json.loads(ran.out)
    assert 0.77 * dense < made["latency"]["pruned_ms"] <= 0.8 * dense


def test_version_and_help(hf_vbp: Any) -> None:
    from hf_vbp import __version__

    assert hf_vbp("--version").out == f"hf-vbp {__version__}\n"
    assert "prune" in hf_vbp("--help").out


def test_prune_and_plan_spend_a_budget_on_merged_tokens_too(hf_vbp: Any, shelf: Path, tmp_path: Path) -> None:
    common = ["--data", shelf / "images", "--target-macs", "0.7", "--json"]
    results = json.loads(hf_vbp("prune", shelf / "model", *common, "--output", tmp_path / "both").out)
    jsonschema.validate(results, schema())
    assert results["merged_tokens"][0] == 0
    assert results["merged_tokens"][1] > 0
    assert results["cost"]["pruned"]["macs"] <= 0.7 * results["cost"]["dense"]["macs"]
    assert all(row["max_abs_difference"] == 0 for row in results["receipt"])
    alone = ["--data", shelf / "images", "--target-macs", "0.8", "--json"]
    mlp = json.loads(hf_vbp("prune", shelf / "model", *alone, "--levers", "mlp", "--output", tmp_path / "mlp").out)
    assert "merged_tokens" not in mlp
    given = ["--data", shelf / "images", "--ratio", "0.5", "--merge-tokens", "2", "--json"]
    fixed = json.loads(hf_vbp("prune", shelf / "model", *given, "--output", tmp_path / "fixed").out)
    assert fixed["merged_tokens"] == [0, 2, 2]
    hf_vbp("stats", shelf / "model", "--data", shelf / "images", "--output", tmp_path / "s")
    plan = hf_vbp("plan", shelf / "model", "--statistics", tmp_path / "s", "--ratio", "0.5", "--merge-tokens", "2")
    assert "Tokens merged before each block: 0, 2, 2" in plan.out


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set")
def test_classes_that_are_read_as_ids_are_noted(
    hf_vbp: Any, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_vbp.checkpoint.saving.take_receipt", lambda model, folder, **_: Receipt(Path(folder)))
    images = save_images(tmp_path / "numbered", each=2, names=("0", "1", "2", "3", "4"))
    note = f"The classes '0' to '4' of {tmp_path.name}/numbered are read as ids of the model."
    given = ("--data", shelf / "images", "--eval-data", images)
    ran = hf_vbp("evaluate", shelf / "model", "--data", images)
    assert (note in ran.err, note in ran.out) == (True, False)
    pruned = hf_vbp("prune", shelf / "model", *given, "--ratio", "0.5", "--output", tmp_path / "pruned")
    assert note in pruned.err
    assert note in hf_vbp("sweep", shelf / "model", *given, "--ratios", "0.5", "--output", tmp_path / "sweep").err
    steps = ("--epochs", "1", "--batch-size", "5", "--output", tmp_path / "trained")
    trained = hf_vbp("finetune", tmp_path / "pruned", "--data", images, "--teacher", "none", *steps)
    assert note in trained.err
    # Names are matched, which needs no note.
    assert "read as ids" not in hf_vbp("evaluate", shelf / "model", "--data", shelf / "images").err

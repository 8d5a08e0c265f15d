"""Every command on files: its output, its results, and that the steps give the same as the whole command."""

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from hf_vbp.results.record import load_results, schema
from hf_vbp.statistics.activation_statistics import ActivationStatistics
from tests.calibration.test_resume import assert_same_bits
from tests.cli.helpers import NAMES, run, save_images, save_tiny
from tests.conftest import TINY
from tests.costs.clock import Clock
from tests.families.running import model_of


def test_prune_prints_only_its_results_and_writes_them(
    hf_vbp: Any, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(lambda model, now: model.num_parameters() * 1e-6).install(monkeypatch)
    out = tmp_path / "pruned"
    ran = hf_vbp("prune", shelf / "model", "--data", shelf / "images", "--eval-data", shelf / "labelled",
                 "--ratio", "0.5", "--output", out, "--latency", "--json")  # fmt: skip
    results = json.loads(ran.out)
    assert results == load_results(out)
    jsonschema.validate(results, schema())
    assert results["plan"]["budget"] == {"kind": "ratio", "asked": 0.5, "achieved": 0.5}
    assert results["data"]["calibration"]["images"] == 20
    assert results["data"]["calibration"]["tokens"] == 20 * 17
    assert results["evaluation"]["dense"]["images"] == results["evaluation"]["pruned"]["images"] == 10
    assert [row["way"] for row in results["receipt"]] == ["import", "remote_code"]
    assert all(row["max_abs_difference"] == 0 for row in results["receipt"])
    assert [(row["model"], row["batch"]) for row in results["latency"]] == [
        ("dense", 1), ("pruned", 1), ("dense", 16), ("pruned", 16)
    ]  # fmt: skip
    cost = results["cost"]
    speedup = cost["dense"]["parameters"] / cost["pruned"]["parameters"]
    assert results["latency"][1]["speedup"] == pytest.approx(speedup)
    assert results["command"].startswith("hf-vbp prune")
    wanted = {"config.json", "model.safetensors", "modeling_hf_vbp.py", "plan.json", "preprocessor_config.json",
              "vbp_manifest.json", "vbp_results.json"}  # fmt: skip
    assert {path.name for path in out.iterdir()} == wanted
    # No folder of this machine is named.
    assert str(tmp_path.parent) not in json.dumps({**results, "command": ""})


def test_a_limit_of_memory_gives_the_same_statistics(hf_vbp: Any, shelf: Path, tmp_path: Path) -> None:
    command = ["stats", shelf / "model", "--data", shelf / "images", "--output"]
    hf_vbp(*command, tmp_path / "one.safetensors")
    ran = hf_vbp(*command, tmp_path / "groups.safetensors", "--max-bytes", "100000")
    assert "several passes" in ran.err
    one, groups = (ActivationStatistics.load(tmp_path / f"{name}.safetensors") for name in ("one", "groups"))
    assert_same_bits(groups, one)
    assert all(torch.equal(a.curve.order, b.curve.order) for a, b in zip(groups.sites, one.sites))  # type: ignore
    assert {path.name for path in tmp_path.iterdir()} == {"one.safetensors", "groups.safetensors"}


def test_statistics_and_plan_are_shown_and_serve_pruning(hf_vbp: Any, shelf: Path, tmp_path: Path) -> None:
    stats, plan = tmp_path / "stats.safetensors", tmp_path / "plan.json"
    gathered = hf_vbp("stats", shelf / "model", "--data", shelf / "images", "--output", stats)
    assert "vit.layers.0.mlp" in gathered.out
    assert hf_vbp("stats", "show", stats).out == gathered.out
    planned = hf_vbp("plan", shelf / "model", "--statistics", stats, "--ratio", "0.3", "--output", plan, "--json")
    assert planned.out == plan.read_text()
    assert "#####" in hf_vbp("plan", shelf / "model", "--statistics", stats, "--ratio", "0.3").out
    ran = hf_vbp("prune", shelf / "model", "--statistics", stats, "--ratio", "0.3", "--scope", "layer",
                 "--preset", "paper", "--output", tmp_path / "uniform")  # fmt: skip
    assert "not evaluated" in ran.out
    assert load_results(tmp_path / "uniform")["receipt"][1]["way"] == "stock"
    assert "auto_map" not in json.loads((tmp_path / "uniform/config.json").read_text())
    # Plain transformers loads it, so that nothing else is advised.
    assert f"  AutoModelForImageClassification.from_pretrained('{tmp_path / 'uniform'}')" in ran.out
    assert "import hf_vbp" not in ran.out
    assert "trust_remote_code" not in ran.out


def test_a_saved_plan_gives_the_weights_of_the_run_that_makes_it(hf_vbp: Any, shelf: Path, tmp_path: Path) -> None:
    stats, plan, model = tmp_path / "stats.safetensors", tmp_path / "plan.json", shelf / "model"
    hf_vbp("stats", model, "--data", shelf / "images", "--output", stats)
    hf_vbp("plan", model, "--statistics", stats, "--ratio", "0.3", "--output", plan)
    hf_vbp("prune", model, "--statistics", stats, "--ratio", "0.3", "--output", tmp_path / "at-once")
    hf_vbp("prune", model, "--statistics", stats, "--plan", plan, "--output", tmp_path / "by-plan")
    at_once, by_plan = (tmp_path / name for name in ("at-once", "by-plan"))
    for name in ("model.safetensors", "plan.json", "config.json"):
        assert (at_once / name).read_bytes() == (by_plan / name).read_bytes()
    assert (by_plan / "plan.json").read_bytes() == plan.read_bytes()
    first, second = (load_results(folder) for folder in (at_once, by_plan))
    assert first.keys() == second.keys()
    for part in ("plan", "predicted", "cost", "statistics", "data"):
        assert first[part] == second[part]


def test_a_plan_for_mixed_neurons_is_refitted_on_images(hf_vbp: Any, shelf: Path, tmp_path: Path) -> None:
    from transformers import ViTImageProcessorPil

    model, stats, plan = tmp_path / "model", tmp_path / "stats.safetensors", tmp_path / "plan.json"
    # ConvNeXt V2 has a GRN inside its MLPs.
    model_of("ConvNextV2ForImageClassification").save_pretrained(model)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(model)
    images = ("--data", shelf / "images")
    hf_vbp("stats", model, *images, "--output", stats)
    hf_vbp("plan", model, "--statistics", stats, "--ratio", "0.4", "--output", plan)
    hf_vbp("prune", model, "--statistics", stats, *images, "--ratio", "0.4", "--output", tmp_path / "at-once")
    hf_vbp("prune", model, "--statistics", stats, *images, "--plan", plan, "--output", tmp_path / "by-plan")
    at_once, by_plan = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("at-once", "by-plan"))
    assert at_once == by_plan


def test_snip_reads_the_images_that_complete_statistics(hf_vbp: Any, shelf: Path, tmp_path: Path) -> None:
    earlier, complete = tmp_path / "earlier.safetensors", tmp_path / "complete.safetensors"
    images, method = ("--data", shelf / "images"), ("--criterion", "snip", "--compensation", "mean")
    hf_vbp("stats", shelf / "model", *images, "--preset", "paper", "--output", earlier)
    hf_vbp("stats", shelf / "model", *images, *method, "--output", complete)
    shared = ("--ratio", "0.5", *method, "--output")
    hf_vbp("prune", shelf / "model", "--statistics", earlier, *images, *shared, tmp_path / "completed")
    hf_vbp("prune", shelf / "model", "--statistics", complete, *shared, tmp_path / "at-once")
    hf_vbp("plan", shelf / "model", "--statistics", complete, *shared, tmp_path / "plan.json")
    completed, at_once = (json.loads((tmp_path / name / "plan.json").read_text()) for name in ("completed", "at-once"))
    assert completed == at_once == json.loads((tmp_path / "plan.json").read_text())


def test_the_closing_table_shows_the_figures_of_the_results(hf_vbp: Any, shelf: Path, tmp_path: Path) -> None:
    out = tmp_path / "pruned"
    ran = hf_vbp("prune", shelf / "model", "--data", shelf / "images", "--eval-data", shelf / "labelled",
                 "--ratio", "0.5", "--output", out, "--latency")  # fmt: skip
    results = load_results(out)
    rows = {cells[0]: cells[1:] for cells in table_rows(ran.out)}
    evaluation, cost = results["evaluation"], results["cost"]
    before, after = evaluation["dense"], evaluation["pruned"]
    retention = f"{100 * evaluation['retention']:.1f} %" if "retention" in evaluation else ""
    assert rows["top-1"] == [f"{100 * before['top1']:.1f} %", f"{100 * after['top1']:.1f} %", retention]
    assert rows["agreement with the base model"][1] == f"{100 * after['agreement']:.1f} %"
    assert rows["KL from the base model, nats"][1] == f"{after['kl']:.3f}"
    kept = cost["pruned"]["parameters"] / cost["dense"]["parameters"]
    assert rows["parameters"][2] == f"{100 * kept:.1f} %"
    dense, pruned = (row for row in results["latency"] if row["batch"] == 1)
    assert rows["latency, batch 1, cpu, float32"][:2] == [f"{row['median_ms']:.2f} ms" for row in (dense, pruned)]
    assert ran.out.startswith("50.0 % of the hidden neurons removed (obs, linear)")
    assert "evaluated on 10 images, the same before and after" in ran.out
    call = f"AutoModelForImageClassification.from_pretrained({str(out)!r}"
    assert f"Saved to {out}. Load it with:\n  import hf_vbp; {call})\n" in ran.out
    assert f"  {call}, trust_remote_code=True)\n" in ran.out


def test_the_closing_line_of_equal_widths_is_that_of_plain_transformers() -> None:
    from hf_vbp.workflow.how_to_load import how_to_load

    results = {"receipt": [{"way": "import"}, {"way": "stock"}], "base_model": {"architecture": "ViTModel"}}
    assert how_to_load(results, "out") == ["Saved to out. Load it with:", "  AutoModel.from_pretrained('out')"]


def table_rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]


def test_a_bare_backbone_is_loaded_by_its_auto_class(hf_vbp: Any, shelf: Path, tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "backbone", kind="vit-backbone")
    ran = hf_vbp("prune", model, "--data", shelf / "images", "--ratio", "0.5", "--output", tmp_path / "out")
    assert f"import hf_vbp; AutoModel.from_pretrained('{tmp_path / 'out'}')" in ran.out


def test_a_head_that_is_not_a_classifier_is_kept(hf_vbp: Any, shelf: Path, tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTForMaskedImageModeling, ViTImageProcessorPil

    from hf_vbp.checkpoint.from_pretrained import from_pretrained

    dense = ViTForMaskedImageModeling(ViTConfig(**TINY, encoder_stride=8))
    dense.save_pretrained(tmp_path / "dense")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "dense")
    out = tmp_path / "out"
    hf_vbp("prune", tmp_path / "dense", "--data", shelf / "images", "--ratio", "0.5", "--output", out)
    pruned = from_pretrained(out, auto_class=ViTForMaskedImageModeling)
    for name, tensor in dense.decoder.state_dict().items():
        assert tensor.equal(pruned.decoder.state_dict()[name])


def test_a_processor_of_another_size(
    hf_vbp: Any, shelf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import AutoModelForImageClassification, ViTImageProcessorPil

    model, out = shutil.copytree(shelf / "model", tmp_path / "model"), tmp_path / "out"
    ViTImageProcessorPil(size={"height": 48, "width": 64}).save_pretrained(model)
    command = ["prune", model, "--data", shelf / "images", "--eval-data", shelf / "labelled",
               "--preset", "paper", "--ratio", "0.5", "--output", out]  # fmt: skip
    refused = run(command, capfd, monkeypatch)
    assert refused.code == 2
    assert "or adapt the position embeddings to another size with --interpolate-pos-encoding" in refused.err
    hf_vbp(*command, "--interpolate-pos-encoding")
    results = load_results(out)
    assert results["data"]["calibration"]["tokens"] == 20 * (6 * 8 + 1)
    assert all(row["max_abs_difference"] == 0 for row in results["receipt"])
    dense = AutoModelForImageClassification.from_pretrained(model)
    with torch.no_grad():
        predicted = [
            dense(batch["pixel_values"], interpolate_pos_encoding=True).logits.argmax(-1) == batch["labels"]
            for batch in _images(shelf / "labelled", model)
        ]
    assert results["evaluation"]["dense"]["top1"] == pytest.approx(float(torch.cat(predicted).float().mean()))
    inspected = json.loads(hf_vbp("inspect", model, "--interpolate-pos-encoding", "--json").out)
    assert inspected["macs"] == results["cost"]["dense"]["macs"]
    again = json.loads(hf_vbp("evaluate", out, "--data", shelf / "labelled", "--json").out)
    assert again["model"]["top1"] == results["evaluation"]["pruned"]["top1"]


def _images(folder: Path, model: Path) -> Any:
    from hf_vbp.data.loading import load_images
    from hf_vbp.data.processing import load_processor

    return load_images(folder, load_processor(model), id2label=dict(enumerate(NAMES)), purpose="evaluation")


def test_statistics_are_available_as_json(hf_vbp: Any, shelf: Path, tmp_path: Path) -> None:
    stats = tmp_path / "stats.safetensors"
    gathered = hf_vbp("stats", shelf / "model", "--data", shelf / "images", "--halves", "--output", stats, "--json")
    found = json.loads(gathered.out)
    assert gathered.out == hf_vbp("stats", "show", stats, "--json").out
    assert (found["images"], found["tokens"]) == (20, 20 * 17)
    assert [site["width"] for site in found["sites"]] == [48, 48, 48]
    assert "halves" in found["holds"]
    assert found["elimination_curves"] is not None
    plain = tmp_path / "plain.safetensors"
    hf_vbp("stats", shelf / "model", "--data", shelf / "images", "--no-precompute", "--output", plain)
    assert json.loads(hf_vbp("stats", "show", plain, "--json").out)["elimination_curves"] is None


def test_options_of_methods_and_registered_methods_reach_the_plan(
    hf_vbp: Any, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hf_vbp.config.registry import CRITERIA

    # Other tests in this process must not see the registrations of this one.
    CRITERIA.names()
    monkeypatch.setattr(CRITERIA, "_classes", dict(CRITERIA._classes))
    (tmp_path / "my_criteria.py").write_text(REGISTERED, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    shared = (shelf / "model", "--import", "my_criteria", "--criterion", "cli-test-constant", "--preset", "paper")
    shared = (*shared, "--criterion-option", "sign=-1")
    hf_vbp("stats", *shared, "--data", shelf / "images", "--output", tmp_path / "s")
    plan = json.loads(hf_vbp("plan", *shared, "--statistics", tmp_path / "s", "--ratio", "0.5", "--json").out)
    assert plan["criterion"] == "cli-test-constant"
    assert plan["options"]["criterion"] == {"sign": -1}
    # Scores are negated indices, so that the last neurons of each site are removed.
    assert all(site["kept"] == list(range(24)) for site in plan["sites"])


REGISTERED = """
from dataclasses import dataclass

import torch

from hf_vbp import Criterion, register_criterion
from hf_vbp.criteria.base import Ranking


@register_criterion
@dataclass(frozen=True)
class Constant(Criterion):
    name = "cli-test-constant"
    sign: int = 1

    def rank(self, statistics, weights):
        indices = [torch.arange(site.moments.hidden, dtype=torch.float64) for site in statistics]
        return [Ranking.from_scores(self.sign * index) for index in indices]
"""


def test_stats_merge_joins_two_halves(hf_vbp: Any, shelf: Path, tmp_path: Path) -> None:
    save_images(tmp_path / "more", each=2, seed=5)
    files = [tmp_path / name for name in ("a", "b", "c")]
    hf_vbp("stats", shelf / "model", "--data", shelf / "images", "--output", files[0])
    hf_vbp("stats", shelf / "model", "--data", tmp_path / "more", "--output", files[1])
    assert "30 images" in hf_vbp("stats", "merge", files[0], files[1], "--output", files[2]).out

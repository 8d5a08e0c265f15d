"""The observed output error against a computation by hand, and against the prediction."""

from typing import Any

import pytest
import torch

import hf_vbp
from hf_vbp.adapters.registry import find_sites
from hf_vbp.cli.console import Reporter
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.errors import ConfigurationError
from hf_vbp.evaluation.models import evaluate_models
from hf_vbp.evaluation.output_error import OutputErrors
from hf_vbp.workflow.prune import prune
from hf_vbp.workflow.prune_command import PruneRequest, run_prune
from hf_vbp.workflow.requests import DataRequest
from tests.calibration.helpers import FULL, images, in_batches
from tests.families.contract import simple_of, work_of


def outputs(model: Any, values: torch.Tensor) -> list[torch.Tensor]:
    """Return the outputs of every MLP, ``(tokens, out)`` float64."""
    found: list[torch.Tensor] = []
    handles = [
        site.fc2.register_forward_hook(lambda module, inputs, output: found.append(output.flatten(0, 1).double()))
        for site in find_sites(model)
    ]
    with torch.no_grad():
        model.eval()(pixel_values=values)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("gradient", [False, True])
def test_agrees_with_outputs_held_in_memory(vit: Any, gradient: bool) -> None:
    batches = in_batches(images(20), 8)
    result = prune(vit, batches, VBPConfig(ratio=0.5))
    held_out = images(15, seed=11)
    metrics = [site.metric if gradient else None for site in result.statistics.sites]
    observed = OutputErrors(vit, result.model, metrics)
    with observed:
        evaluate_models({"dense": vit, "pruned": result.model}, in_batches(held_out, 4))
    found = observed.to_dict()
    assert found["metric"] == ("gradient" if gradient else "identity")
    errors, energies = [], []
    for before, after, metric in zip(outputs(vit, held_out), outputs(result.model, held_out), metrics, strict=True):
        weight = torch.eye(before.shape[1], dtype=torch.float64) if metric is None else metric
        centered, change = before - before.mean(0), after - before
        errors.append(float(((change @ weight) * change).sum()))
        energies.append(float(((centered @ weight) * centered).sum()))
    expected = [error / energy for error, energy in zip(errors, energies, strict=True)]
    assert found["relative_output_error_by_site"] == pytest.approx(expected, rel=1e-4)
    assert found["relative_output_error"] == pytest.approx(sum(errors) / sum(energies), rel=1e-4)


def test_the_prediction_is_exact_for_the_first_mlp_on_the_calibration_images(vit: Any) -> None:
    # Its inputs are the same in both models, so that the prediction is exact there.
    batches = in_batches(images(20), 8)
    statistics = hf_vbp.collect_statistics(vit, batches, FULL)
    for compensation in ("none", "mean", "linear"):
        config = VBPConfig(ratio=0.5, criterion="variance", compensation=compensation)
        result = prune(vit, config=config, statistics=statistics)
        observed = OutputErrors(vit, result.model, [None] * 3)
        with observed:
            evaluate_models({"dense": vit, "pruned": result.model}, batches)
        first = observed.to_dict()["relative_output_error_by_site"][0]
        assert first == pytest.approx(result.plan.predicted["relative_output_error_by_site"][0], rel=1e-3)


def test_every_call_of_a_site_that_runs_several_times_counts() -> None:
    name = "PerceiverForImageClassificationLearned"
    work, (plan, pruned) = work_of(name), simple_of(name)
    shared = next(index for index, site in enumerate(work.sites) if site.calls == 2)
    observed = OutputErrors(work.model, pruned, [None] * len(plan.widths))
    with observed:
        evaluate_models({"dense": work.model, "pruned": pruned}, work.batches)
    errors, tokens = 0.0, []
    for batch in work.batches:
        before, after = (calls_of(find_sites(model)[shared], model, batch) for model in (work.model, pruned))
        assert len(before) == len(after) == 2
        errors += sum(float((b - a).square().sum()) for b, a in zip(before, after, strict=True))
        tokens += [row for each in before for row in each.flatten(0, -2)]
    rows = torch.stack(tokens)
    energies = float((rows - rows.mean(0)).square().sum())
    found = observed.to_dict()["relative_output_error_by_site"][shared]
    assert found == pytest.approx(errors / energies, rel=1e-4)


def calls_of(site: Any, model: Any, batch: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    handle = site.fc2.register_forward_hook(lambda module, inputs, output: found.append(output.double()))
    with torch.no_grad():
        model(**batch)
    handle.remove()
    return found


def test_no_hook_is_left_and_models_must_match(vit: Any) -> None:
    with OutputErrors(vit, vit, [None] * 3) as observed:
        pass
    assert not any(site.fc2._forward_hooks for site in find_sites(vit))
    assert observed.to_dict()["relative_output_error"] == 0
    with pytest.raises(ConfigurationError, match="MLPs"):
        OutputErrors(vit, vit, [None] * 2)


def test_the_results_hold_both(tmp_path: Any) -> None:
    path = hf_vbp.sample_model_path()
    data = DataRequest("sample", limit=64)
    request = PruneRequest(
        model=path, config=VBPConfig(ratio=0.5), data=data, evaluation=data, output=tmp_path / "pruned"
    )
    results = run_prune(request, Reporter(quiet=True))
    assert set(results["observed"]) <= set(results["predicted"])
    assert results["observed"]["metric"] == results["predicted"]["metric"] == "gradient"
    assert 0 < results["observed"]["relative_output_error"] < 1

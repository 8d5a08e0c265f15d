"""Plan and surgery against a float64 reference written from the paper's equations, and their guarantees."""

import copy
import pickle
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_vbp.adapters.registry import find_sites
from hf_vbp.calibration.collect import collect_statistics
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.errors import BudgetError, ConfigurationError, NonFiniteError, PlanError, StatisticsMismatchError
from hf_vbp.pruning.apply_plan import apply_plan
from hf_vbp.pruning.make_plan import make_plan
from hf_vbp.pruning.plan import PruningPlan
from hf_vbp.token_merging.merge_tokens import merge_tokens, merged_tokens
from tests.conftest import make_model

PAPER = VBPConfig.preset("paper")
KINDS = ["vit", "vit-backbone", "deit", "deit-teacher"]


def paper(**changes: Any) -> VBPConfig:
    """The paper's method with a budget and other changes."""
    return VBPConfig.preset("paper", **changes)


def logits(model: Any, pixel_values: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        output = model(pixel_values=pixel_values.to(model.dtype))
    return output.logits if hasattr(output, "logits") else output.last_hidden_state


def hidden_activations(model: Any, batches: list[dict[str, torch.Tensor]]) -> list[torch.Tensor]:
    """Every hidden activation ``(tokens, hidden)`` float64 of every site, kept whole: the naive way."""
    seen: list[list[torch.Tensor]] = [[] for _ in find_sites(model)]
    handles = [
        site.fc2.register_forward_pre_hook(lambda _, inputs, into=into: into.append(inputs[0].flatten(0, -2).double()))
        for site, into in zip(find_sites(model), seen)
    ]
    with torch.no_grad():
        for batch in batches:
            model(pixel_values=batch["pixel_values"].to(model.dtype))
    for handle in handles:
        handle.remove()
    return [torch.cat(parts) for parts in seen]


def reference_of_the_paper(model: Any, activations: list[torch.Tensor], number: int, *, shift: bool) -> Any:
    """Sections 3.1 to 3.3 in float64, as plainly as they can be written."""
    reference = copy.deepcopy(model).double()
    scores = [(float(v), i, j) for i, h in enumerate(activations) for j, v in enumerate(h.var(0, correction=1))]
    gone = {(i, j) for _, i, j in sorted(scores)[:number]}
    for i, (site, h) in enumerate(zip(find_sites(reference), activations)):
        pruned = [j for j in range(h.shape[1]) if (i, j) in gone]
        kept = [j for j in range(h.shape[1]) if (i, j) not in gone]
        with torch.no_grad():
            if shift:
                site.fc2.bias += site.fc2.weight[:, pruned] @ h.mean(0)[pruned]
            for linear, name, value in (
                (site.fc1, "weight", site.fc1.weight[kept]),
                (site.fc1, "bias", site.fc1.bias[kept]),
                (site.fc2, "weight", site.fc2.weight[:, kept]),
            ):
                setattr(linear, name, torch.nn.Parameter(value.clone()))
    return reference


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compensation", ["none", "mean"])
def test_equals_the_papers_equations(kind: str, compensation: str, batches: list[dict[str, torch.Tensor]]) -> None:
    model = make_model(kind)
    statistics = collect_statistics(model, batches, PAPER)
    plan = make_plan(model, statistics, paper(ratio=0.5, compensation=compensation))
    pruned = apply_plan(model, plan, statistics)
    reference = reference_of_the_paper(
        model, hidden_activations(model, batches), 3 * 48 // 2, shift=compensation == "mean"
    )
    assert sum(plan.widths) == 3 * 48 // 2
    x = batches[0]["pixel_values"]
    torch.testing.assert_close(logits(pruned, x).double(), logits(reference, x), rtol=1e-5, atol=1e-6)


def test_removing_constant_neurons_keeps_the_logits(vit: Any, batches: list[dict[str, torch.Tensor]]) -> None:
    with torch.no_grad():
        for site in find_sites(vit):
            site.fc1.weight[::3] = 0
    statistics = collect_statistics(vit, batches, PAPER)
    plan = make_plan(vit, statistics, paper(ratio=1 / 3))
    assert all(set(site.kept) == {j for j in range(48) if j % 3} for site in plan.sites)
    x = batches[0]["pixel_values"]
    difference = logits(apply_plan(vit, plan, statistics), x) - logits(vit, x)
    assert difference.abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtype_and_mode_are_kept_and_the_callers_model_is_unchanged(
    dtype: torch.dtype, batches: list[dict[str, torch.Tensor]]
) -> None:
    model = make_model(dtype=dtype).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = copy.deepcopy(model.config.to_dict())
    statistics = collect_statistics(model, batches, PAPER)
    pruned = apply_plan(model, make_plan(model, statistics, paper(ratio=0.4)), statistics)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.config.to_dict() == config
    assert {p.dtype for p in pruned.parameters()} == {dtype}
    assert type(pruned) is type(model)
    assert all(module.training for module in pruned.modules())
    # Rows of fc1 are taken, never computed.
    first, kept = find_sites(pruned)[0], make_plan(model, statistics, paper(ratio=0.4)).sites[0].kept
    assert torch.equal(first.fc1.weight, find_sites(model)[0].fc1.weight[list(kept)])
    # The copy shares no memory with the caller's model.
    pointers = {parameter.data_ptr() for parameter in model.parameters()}
    assert not any(parameter.data_ptr() in pointers for parameter in pruned.parameters())


def test_inplace_changes_the_model_itself(vit: Any, batches: list[dict[str, torch.Tensor]]) -> None:
    statistics = collect_statistics(vit, batches, PAPER)
    plan = make_plan(vit, statistics, paper(ratio=0.5))
    expected = logits(apply_plan(vit, plan, statistics), batches[0]["pixel_values"])
    assert apply_plan(vit, plan, statistics, inplace=True) is vit
    assert [site.intermediate_size for site in find_sites(vit)] == plan.widths
    assert torch.equal(logits(vit, batches[0]["pixel_values"]), expected)


def test_a_failure_half_way_leaves_the_model_unchanged(
    vit: Any, batches: list[dict[str, torch.Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hf_vbp.pruning import apply_plan as surgery

    statistics = collect_statistics(vit, batches, PAPER)
    plan = make_plan(vit, statistics, paper(ratio=0.5))
    before = logits(vit, batches[0]["pixel_values"])
    calls = iter([surgery.compensate])

    def fails_at_the_second_site(*args: Any, **kwargs: Any) -> Any:
        for function in calls:
            return function(*args, **kwargs)
        raise MemoryError

    monkeypatch.setattr(surgery, "compensate", fails_at_the_second_site)
    with pytest.raises(MemoryError):
        apply_plan(vit, plan, statistics, inplace=True)
    assert torch.equal(logits(vit, batches[0]["pixel_values"]), before)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("step", ["_become", "_record", "merge_tokens"])
@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_of_in_place_surgery_leaves_the_model_unchanged(
    large: bool,
    step: str,
    failure: type[BaseException],
    vit: Any,
    batches: list[dict[str, torch.Tensor]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from hf_vbp.pruning import apply_plan as surgery

    merge_tokens(vit, 1)
    seen: list[Any] = []
    handle = find_sites(vit)[1].fc1.register_forward_hook(lambda *_: seen.append(None))
    statistics = collect_statistics(vit, batches, PAPER)
    plan = make_plan(vit, statistics, paper(ratio=0.5, levers=("mlp", "tokens"), merge_tokens=2))
    assert plan.merged_tokens == (0, 2, 2)
    expected = logits(apply_plan(vit, plan, statistics), batches[0]["pixel_values"])
    before, config = dict(vit.named_parameters()), vit.config.to_dict()
    dense = logits(vit, batches[0]["pixel_values"])
    original, calls = getattr(surgery, step), []

    def fails_after_its_work(*args: Any) -> None:
        original(*args)
        calls.append(args)
        # The second of the MLPs; the other steps run once.
        if step != "_become" or len(calls) == 3:
            raise failure

    with monkeypatch.context() as patch:
        if large:
            patch.setattr("hf_vbp.pruning.restored.LARGE_BYTES", 0)
        patch.setattr(surgery, step, fails_after_its_work)
        with pytest.raises(failure):
            apply_plan(vit, plan, statistics, inplace=True)
    after = dict(vit.named_parameters())
    assert after.keys() == before.keys()
    assert all(after[name] is parameter for name, parameter in before.items())
    assert vit.config.to_dict() == config
    assert merged_tokens(vit) == (0, 1, 1)
    assert torch.equal(logits(vit, batches[0]["pixel_values"]), dense)
    # The handles of the user still remove their hooks, and the same call works afterwards.
    handle.remove()
    seen.clear()
    apply_plan(vit, plan, statistics, inplace=True)
    assert torch.equal(logits(vit, batches[0]["pixel_values"]), expected)
    assert not seen


def test_a_saved_plan_gives_the_same_weights_bit_for_bit(
    vit: Any, batches: list[dict[str, torch.Tensor]], tmp_path: Any
) -> None:
    statistics = collect_statistics(vit, batches, PAPER)
    plan = make_plan(vit, statistics, paper(ratio=0.37, minimum_width=2, round_to=4))
    again = PruningPlan.load(plan.save(tmp_path / "plan.json"))
    assert again == plan
    first, second = (apply_plan(vit, p, statistics).state_dict() for p in (plan, again))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_pruned_model_copies_and_pickles(vit: Any, batches: list[dict[str, torch.Tensor]]) -> None:
    statistics = collect_statistics(vit, batches, PAPER)
    pruned = apply_plan(vit, make_plan(vit, statistics, paper(ratio=0.5)), statistics)
    x = batches[0]["pixel_values"]
    for other in (copy.deepcopy(pruned), pickle.loads(pickle.dumps(pruned))):
        assert torch.equal(logits(other, x), logits(pruned, x))


@pytest.mark.parametrize(("kind", "target"), [("parameters", 0.8), ("macs", 0.8)])
def test_budgets_are_met_by_the_real_shapes(
    kind: str, target: float, vit: Any, batches: list[dict[str, torch.Tensor]]
) -> None:
    from hf_vbp.costs.counts import count_macs, count_parameters

    count = count_parameters if kind == "parameters" else count_macs
    statistics = collect_statistics(vit, batches, PAPER)
    plan = make_plan(vit, statistics, paper(**{f"target_{kind}": target}))
    measured = count(apply_plan(vit, plan, statistics)) / count(vit)
    assert measured == pytest.approx(plan.achieved, abs=1e-12)
    assert target - 0.01 < measured <= target


def test_a_budget_that_cannot_be_reached_names_the_limit(vit: Any, batches: list[dict[str, torch.Tensor]]) -> None:
    statistics = collect_statistics(vit, batches, PAPER)
    with pytest.raises(BudgetError, match=r"parameters: 0.1 cannot be reached.*share of 0\.\d+ can be kept. Each MLP"):
        make_plan(vit, statistics, paper(target_parameters=0.1))


def test_statistics_and_plans_of_another_model_are_refused(vit: Any, batches: list[dict[str, torch.Tensor]]) -> None:
    statistics = collect_statistics(vit, batches, PAPER)
    plan = make_plan(vit, statistics, paper(ratio=0.5))
    other = make_model(seed=7)
    with pytest.raises(StatisticsMismatchError, match="weights differ"):
        make_plan(other, statistics, paper(ratio=0.5))
    of_other = collect_statistics(other, batches, PAPER)
    with pytest.raises(PlanError, match="other weights"):
        apply_plan(other, plan, of_other)
    deeper = make_model(num_hidden_layers=4)
    of_deeper = collect_statistics(deeper, batches, PAPER)
    with pytest.raises(PlanError, match="4 of widths"):
        apply_plan(deeper, plan, of_deeper)


def test_mean_needs_a_bias_and_none_does_not(vit: Any, batches: list[dict[str, torch.Tensor]]) -> None:
    for site in find_sites(vit):
        site.fc2.register_parameter("bias", None)
    statistics = collect_statistics(vit, batches, PAPER)
    with pytest.raises(ConfigurationError, match="fc2 has no bias"):
        make_plan(vit, statistics, paper(ratio=0.5))
    plan = make_plan(vit, statistics, paper(ratio=0.5, compensation="none"))
    assert find_sites(apply_plan(vit, plan, statistics))[0].fc2.bias is None


def test_nan_weights_are_refused(vit: Any, batches: list[dict[str, torch.Tensor]]) -> None:
    statistics = collect_statistics(vit, batches, PAPER)
    with torch.no_grad():
        find_sites(vit)[1].fc1.bias[3] = float("nan")
    with pytest.raises(NonFiniteError, match=r"layers.1.mlp.fc1.bias"):
        make_plan(vit, statistics, paper(ratio=0.5))


class TestDamagedPlans:
    @pytest.fixture
    def content(self, vit: Any, batches: list[dict[str, torch.Tensor]]) -> dict[str, Any]:
        return make_plan(vit, collect_statistics(vit, batches, PAPER), paper(ratio=0.5)).to_dict()

    def test_version(self, content: dict[str, Any]) -> None:
        with pytest.raises(PlanError, match="version 99"):
            PruningPlan.from_dict({**content, "version": 99})

    def test_missing_field(self, content: dict[str, Any]) -> None:
        del content["criterion"]
        with pytest.raises(PlanError, match="no field criterion"):
            PruningPlan.from_dict(content)

    @pytest.mark.parametrize("kept", [[0, 0], [3, 1], [-1], [48]])
    def test_indices(self, content: dict[str, Any], kept: list[int]) -> None:
        content["sites"][0]["kept"] = kept
        with pytest.raises(PlanError, match="ascending indices below 48"):
            PruningPlan.from_dict(content)

    def test_not_json(self, tmp_path: Any) -> None:
        (tmp_path / "plan.json").write_text("{")
        with pytest.raises(PlanError, match="cannot be read as a pruning plan"):
            PruningPlan.load(tmp_path / "plan.json")

    def test_missing_file(self, tmp_path: Any) -> None:
        with pytest.raises(PlanError, match="cannot be read"):
            PruningPlan.load(tmp_path / "nothing.json")


def test_replaced_weights_that_are_large_are_kept_in_a_file_until_the_end(
    vit: Any, batches: list[dict[str, torch.Tensor]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from hf_vbp.pruning import apply_plan as surgery

    statistics = collect_statistics(vit, batches, PAPER)
    plan = make_plan(vit, statistics, paper(ratio=0.5))
    expected = logits(apply_plan(vit, plan, statistics), batches[0]["pixel_values"])
    mlps = [site.fc1.weight.nbytes for site in find_sites(vit)]
    original, sizes = surgery._record, []

    def record(*args: Any) -> None:
        sizes.append(sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()))
        original(*args)

    monkeypatch.setattr("hf_vbp.pruning.restored.LARGE_BYTES", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(surgery, "_record", record)
    apply_plan(vit, plan, statistics, inplace=True)
    assert torch.equal(logits(vit, batches[0]["pixel_values"]), expected)
    assert sizes[0] > 2 * sum(mlps)
    assert list(tmp_path.iterdir()) == []

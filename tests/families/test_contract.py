"""The contract that every model class keeps: what is found, gathered, pruned, and how it behaves afterwards."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.fx.experimental import symbolic_shapes

import hf_vbp
from hf_vbp import VBPConfig
from hf_vbp.adapters.prepared import prepare
from hf_vbp.adapters.registry import adapter_of, find_sites
from hf_vbp.calibration.saliency import with_saliency
from hf_vbp.config.registry import COMPENSATIONS, CRITERIA
from hf_vbp.config.requirements import Requirements
from hf_vbp.errors import ConfigurationError, UnsupportedModelError
from hf_vbp.modeling.modeling_hf_vbp import LAYOUTS, Layout

from . import contract
from .contract import (
    EXPORTED_IN_SUITE,
    FIRST,
    NOT_EXPORTED,
    PRUNED,
    WHOLE,
    WITHOUT,
    captured,
    difference,
    held,
    outputs,
    simple_of,
    work_of,
)
from .family import Family, Site
from .running import model_of, width_in, width_out


def each(families: list[Family]) -> pytest.MarkDecorator:
    """Run a test for each family."""
    return pytest.mark.parametrize("family", families, ids=lambda family: family.name)


def first_of_each(families: list[Family]) -> pytest.MarkDecorator:
    """Run a test for each family, those that share architecture and layouts with an earlier one as slow tests."""
    marked = [family if family.name in FIRST else pytest.param(family, marks=pytest.mark.slow) for family in families]
    return pytest.mark.parametrize("family", marked, ids=lambda family: family.name)


EACH = each(PRUNED)
# GRN and LayerNorm over the neurons: the others change when some become constants. Relative to the largest output of
# the tiny models, with the first fit against neurons held at their mean.
MIXING_BOUND = 0.5


def relative(site: Site) -> tuple[tuple[str, ...], str]:
    def local(name: str) -> str:
        return name.removeprefix(f"{site.parent}.")

    return tuple(map(local, site.ups)), local(site.down)


def example_of(layout: Layout) -> Family | None:
    """The first family with an MLP of this row, if possible one that needs no further package."""
    fitting = [
        family
        for family in sorted(PRUNED, key=lambda family: family.needs is not None)
        if any((ups == layout.ups and down == layout.down) for ups, down in (relative(site) for site in family.sites))
    ]
    return fitting[0] if fitting else None


ROWS = {"-".join((*layout.ups, layout.down)): example_of(layout) for layout in LAYOUTS}


@EACH
def test_the_sites_of_the_zoo_are_found(family: Family) -> None:
    model = model_of(family.name)
    found = {
        (site.layout.ups, site.layout.down, site.layout.between, site.layout.after or None, site.layout.packed)
        for site in find_sites(model)
    }
    assert found == {(site.ups, site.down, site.between, site.behind, site.packed) for site in family.sites}
    assert [site.mixes_neurons for site in find_sites(model)] == [site.mixes for site in work_of(family.name).sites]


@EACH
def test_the_sites_are_in_the_order_of_the_forward_pass(family: Family) -> None:
    work = work_of(family.name)
    modules, order = dict(work.model.named_modules()), list[str]()

    def note(name: str) -> Callable[..., None]:
        return lambda *_: order.append(name)

    with contract.hooked(*(modules[site.down].register_forward_hook(note(site.down)) for site in work.sites)):
        outputs(work.model, work.batches[0])
    assert list(dict.fromkeys(order)) == [site.down for site in work.sites]


@each([family for family in [*PRUNED, *WHOLE] if family.excluded])
def test_what_is_left_out_is_listed_with_the_reason(family: Family) -> None:
    model = model_of(family.name)
    listed = adapter_of(model).left_out(model)
    assert all(reason.strip() for reason in listed.values())
    assert not {site.parent for site in family.sites} & listed.keys()
    for prefix in family.excluded:
        assert any(name == prefix or name.startswith(f"{prefix}.") for name in listed), prefix


@EACH
def test_nothing_that_is_no_mlp_is_listed(family: Family) -> None:
    """Attention, embeddings and classifiers of a single layer would only hide what matters."""
    model = model_of(family.name)
    for name in adapter_of(model).left_out(model):
        module = model.get_submodule(name)
        assert not re.search(r"attention(\.(self|attention|attn))?$|embeddings?$", name), name
        inner = sum(isinstance(one, torch.nn.Linear | torch.nn.Conv2d) for one in module.modules())
        assert inner > 1 or name.endswith("pooler"), name


@each(WITHOUT)
def test_a_model_without_sites_is_refused_by_name(family: Family) -> None:
    model = model_of(family.name)
    with pytest.raises(UnsupportedModelError, match=rf"{family.class_name}|experts|backbone\.encoder"):
        prepare(model, family.batch(2))
    # The reasons on the page of the supported models are those of the error.
    listed = adapter_of(model).left_out(model)
    for prefix, reason in family.excluded.items():
        assert reason in [listed[name] for name in listed if name.startswith(prefix)], prefix


@each(WHOLE)
def test_a_whole_language_model_is_refused_with_the_lines_that_prune_its_tower(family: Family) -> None:
    model = model_of(family.name)
    with pytest.raises(UnsupportedModelError, match=rf"{family.class_name}.*hf_vbp\.prune\(.*save_pretrained"):
        hf_vbp.collect_statistics(model, [family.batch(2)], Requirements())


@EACH
def test_statistics_equal_those_of_captured_activations(family: Family) -> None:
    """float64 on activations that plain hooks captured, without padded and masked tokens."""
    work = work_of(family.name)
    parts = [captured(work, batch) for batch in work.batches]
    for site, *several in zip(work.statistics.sites, *parts, strict=True):
        rows = torch.cat(several)
        mean = rows.mean(0)
        centered = rows - mean
        deviation = centered.square().sum(0).sqrt().clamp(min=1e-12)
        assert site.moments.count == len(rows), site.name
        assert ((site.moments.mean - mean).abs() <= 1e-5 * (deviation / len(rows) ** 0.5 + mean.abs())).all()
        error = (site.moments.comoment - centered.T @ centered).abs()
        assert (error <= 1e-5 * deviation[:, None] * deviation[None]).all(), site.name
        assert torch.equal(site.moments.comoment.diagonal(), site.moments.m2)


@first_of_each(PRUNED)
def test_statistics_do_not_depend_on_batches(family: Family) -> None:
    """Two batches in one pass, in two passes, and as one batch: noise of the metric is seeded by image."""
    work = work_of(family.name)
    needs = Requirements(covariances=True)
    one, other = (hf_vbp.collect_statistics(work.prepared, [batch], needs) for batch in work.batches)
    for together, merged in zip(work.statistics.sites, one.merge(other).sites, strict=True):
        assert together.moments.count == merged.moments.count
        close(merged.moments.mean, together.moments.mean, 1e-6)
        close(merged.moments.comoment, together.moments.comoment, 5e-6)
    whole = hf_vbp.collect_statistics(work.prepared, [work.all_images], VBPConfig())
    for together, single in zip(work.statistics.sites, whole.sites, strict=True):
        assert together.moments.count == single.moments.count
        close(single.moments.mean, together.moments.mean, 1e-4)
        close(single.moments.comoment, together.moments.comoment, 1e-4)
        assert (single.metric is None) == (together.metric is None) == (family.lengths is not None)
        if together.metric is not None:
            close(single.metric, together.metric, 2e-3)


def close(found: torch.Tensor, expected: torch.Tensor, share: float) -> None:
    assert ((found - expected).abs() <= share * expected.abs().max()).all()


@EACH
def test_neurons_held_at_their_mean_equal_pruned_ones(family: Family) -> None:
    work = work_of(family.name)
    plan, small = simple_of(family.name)
    with_mean = plan.config.compensation == "mean"
    means = [site.moments.mean if with_mean else None for site in work.statistics.sites]
    with held(work, plan, means):
        expected = outputs(work.model, work.batches[0])
    found = outputs(small, work.batches[0])
    assert all(torch.isfinite(value).all() for value in found.values())
    assert difference(found, outputs(work.model, work.batches[0])) > 1e-4
    if family.class_name == "Sam2Model":
        # The mask decoder amplifies rounding; its input, the output of the encoder, agrees.
        assert difference({"": found.pop(".pred_masks")}, {"": expected.pop(".pred_masks")}) <= 1e-4
    assert difference(found, expected) <= (MIXING_BOUND if work.mixes else 1e-5)


@EACH
def test_the_pruned_modules_have_the_planned_widths(family: Family) -> None:
    plan, small = simple_of(family.name)
    modules = dict(small.named_modules())
    assert 0 < sum(plan.widths) < sum(plan.dense_widths)
    for site, width in zip(work_of(family.name).sites, plan.widths, strict=True):
        assert width_in(modules[site.down]) == width
        assert {width_out(modules[name]) for name in site.ups} == {2 * width if site.packed else width}
        for name in site.between:
            assert all(width in (tensor.numel(), tensor.shape[0]) for tensor in modules[name].parameters())


@EACH
def test_the_default_method_runs(family: Family) -> None:
    work = work_of(family.name)
    plan = work.plan("obs", "linear")
    small = work.apply(plan)
    assert [site.intermediate_size for site in find_sites(small)] == plan.widths
    assert all(torch.isfinite(value).all() for value in outputs(small, work.batches[0]).values())
    assert plan.ratio == pytest.approx(contract.RATIO, abs=0.02)


@each([family for family in PRUNED if not contract.has_bias(family)])
def test_the_preset_of_the_paper_is_refused_without_a_bias(family: Family) -> None:
    work = work_of(family.name)
    without = re.escape(work.prepared.sites[0].layout.down)
    with pytest.raises(
        ConfigurationError, match=rf"^{without} has no bias, so compensation 'mean' has nowhere to fold"
    ):
        hf_vbp.make_plan(work.prepared, work.statistics, VBPConfig.preset("paper", ratio=contract.RATIO))


def test_every_row_of_the_table_has_an_example() -> None:
    without = {row for row, family in ROWS.items() if family is None}
    # Names of older versions of transformers and timm, and of files.
    assert without == {"linear1-linear2", "w1-w2-w3", "w12-w3", "weights_in-weights_out"}


METHODS = ("variance", "weighted-variance", "magnitude", "random", "obs")
KINDS = ("none", "mean", "linear")
PAIRS = [(criterion, compensation) for criterion in METHODS for compensation in KINDS]
# Each of them at least once; all pairs are slow. The default pair has a test of its own for every family.
FAST = [(criterion, KINDS[place % 3]) for place, criterion in enumerate(METHODS)]


def test_the_pairs_are_all_that_need_no_labels() -> None:
    given = Requirements(covariances=True, output_metric=True, token_weights=True, halves=True, bias=True)
    assert {name for name in CRITERIA.names() if not CRITERIA.create(name, {}).requires - given} >= set(METHODS)
    assert set(COMPENSATIONS.names()) >= set(KINDS)
    assert {criterion for criterion, _ in FAST} == set(METHODS)
    assert {compensation for _, compensation in FAST} == set(KINDS)


@pytest.mark.slow
@pytest.mark.parametrize("row", [row for row, family in ROWS.items() if family])
def test_the_criterion_that_needs_labels(row: str) -> None:
    family = ROWS[row]
    assert family is not None
    work = work_of(family.name)
    if work.prepared.not_single_label:
        with pytest.raises(ConfigurationError, match="single-label classifier"):
            hf_vbp.collect_statistics(work.prepared, work.batches, VBPConfig(criterion="snip"))
        return
    statistics = with_saliency(work.prepared, work.statistics, work.batches)
    for compensation in KINDS:
        if compensation != "mean" or contract.has_bias(family):
            plan = hf_vbp.make_plan(work.prepared, statistics, work.config("snip", compensation))
            small = hf_vbp.apply_plan(work.model, plan, statistics)
            assert [site.intermediate_size for site in find_sites(small)] == plan.widths
            assert all(torch.isfinite(value).all() for value in outputs(small, work.batches[0]).values())


@pytest.mark.parametrize("row", [row for row, family in ROWS.items() if family])
@pytest.mark.parametrize("pairs", [FAST, pytest.param(PAIRS, marks=pytest.mark.slow)], ids=["some", "all"])
def test_every_criterion_with_every_compensation(row: str, pairs: list[tuple[str, str]]) -> None:
    family = ROWS[row]
    assert family is not None
    work = work_of(family.name)
    for criterion, compensation in pairs:
        if compensation == "mean" and not contract.has_bias(family):
            with pytest.raises(ConfigurationError, match="bias"):
                work.plan(criterion, compensation)
            continue
        plan = work.plan(criterion, compensation)
        small = work.apply(plan)
        assert [site.intermediate_size for site in find_sites(small)] == plan.widths
        assert all(torch.isfinite(value).all() for value in outputs(small, work.batches[0]).values())


def loss_of(output: Any) -> torch.Tensor:
    return torch.stack([value.double().sum() for value in contract.tensors(output).values()]).sum()


@first_of_each(PRUNED)
def test_one_training_step_changes_the_pruned_mlps(family: Family) -> None:
    work = work_of(family.name)
    _, small = simple_of(family.name)
    before = {name: value.clone() for name, value in small.state_dict().items()}
    optimizer = torch.optim.SGD(small.parameters(), lr=1e-3)
    try:
        loss_of(small(**work.batches[0])).backward()
        optimizer.step()
        after = small.state_dict()
        for site in family.sites:
            for name in (*site.ups, site.down):
                changed = not torch.equal(before[f"{name}.weight"], after[f"{name}.weight"])
                assert changed == site.used, name
    finally:
        optimizer.zero_grad(set_to_none=True)
        small.load_state_dict(before)


@first_of_each(PRUNED)
def test_the_pruned_model_runs_in_bfloat16(family: Family) -> None:
    work = work_of(family.name)
    # LeViT keeps attention biases of the dtype of its first pass until it trains.
    small = copy.deepcopy(simple_of(family.name)[1]).train().eval().to(torch.bfloat16)
    batch = {key: bfloat16(value) for key, value in work.batches[0].items()}
    found = outputs(small, batch)
    assert all(torch.isfinite(value).all() for value in found.values())
    dense = copy.deepcopy(work.model).train().eval().to(torch.bfloat16)
    assert dtypes(found) == dtypes(outputs(dense, batch))


def dtypes(found: dict[str, torch.Tensor]) -> dict[str, torch.dtype]:
    return {key: value.dtype for key, value in found.items()}


def bfloat16(value: Any) -> Any:
    floating = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.to(torch.bfloat16) if floating else value


class Plain(torch.nn.Module):
    """Gives the tensors that the kind of a family names."""

    def __init__(self, family: Family, model: Any) -> None:
        super().__init__()
        self.family, self.model = family, model

    def forward(self, **inputs: Any) -> list[torch.Tensor]:
        return self.family.outputs(self.model(**inputs))


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, id=family.name, marks=() if family.name in EXPORTED_IN_SUITE else pytest.mark.slow)
        for family in PRUNED
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_exports_when_dense_exports_when_pruned(family: Family) -> None:
    inputs = dict(work_of(family.name).batches[0])
    small = copy.deepcopy(simple_of(family.name)[1])
    plain = Plain(family, small)
    if family.class_name in NOT_EXPORTED:
        for model in (plain, Plain(family, family.build())):
            with pytest.raises(symbolic_shapes.GuardOnDataDependentSymNode):
                torch.export.export(model, (), inputs)
        return
    with torch.no_grad():
        expected = plain(**inputs)
        found = torch.export.export(plain, (), inputs).module()(**inputs)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() <= 1e-4 * other.abs().max()

"""Requests that do not fit the model: another kind of output, random forwards, inference mode."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import hf_vbp
from hf_vbp.adapters import registry as registry_module
from hf_vbp.adapters.linear_pair import LinearPairAdapter
from hf_vbp.calibration.saliency import collect_saliency
from hf_vbp.config.requirements import Requirements
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.errors import BudgetError, ConfigurationError, StatisticsError, UnsupportedModelError
from hf_vbp.pruning.make_plan import precompute_scores, rank_sites
from tests.conftest import TINY, make_model

Batches = list[dict[str, torch.Tensor]]


class Unread:
    """Data that must not be read, since the request is refused first."""

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("the images were read before the request was checked")


class FirstOnly:
    """Data of which only the first batch may be read, for the structural check."""

    def __iter__(self) -> Iterator[Any]:
        yield {"pixel_values": images(4, 0)}
        raise AssertionError("the images were read before the request was checked")


def images(count: int, seed: int) -> torch.Tensor:
    """Noise with one brightness in the upper half and another in the lower half."""
    generator = torch.Generator().manual_seed(seed)
    brightness = torch.randn(count, 1, 2, 1, generator=generator).repeat_interleave(16, 2)
    return brightness + 0.3 * torch.randn(count, 3, 32, 32, generator=generator)


def score(batch: torch.Tensor) -> torch.Tensor:
    upper, lower = batch[:, :, :16].mean((1, 2, 3)), batch[:, :, 16:].mean((1, 2, 3))
    return upper * lower + upper


@pytest.fixture(scope="module")
def trained() -> Any:
    """A ViT trained for two seconds to predict the score of an image."""
    steps = 300
    model = make_model(num_labels=1, problem_type="regression").train()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for step in range(steps):
        batch = images(32, step)
        loss = nn.functional.mse_loss(model(pixel_values=batch).logits[:, 0], score(batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def r2(model: Any) -> float:
    batch = images(512, 100_000)
    with torch.no_grad():
        predicted = model(pixel_values=batch).logits[:, 0]
    return 1 - float((predicted - score(batch)).square().mean() / score(batch).var())


class TestOtherOutputs:
    @pytest.mark.parametrize("ratio", [0.3, 0.5])
    def test_a_trained_regression_head_is_pruned_no_worse_than_by_the_paper(self, trained: Any, ratio: float) -> None:
        assert r2(trained) > 0.8
        data = [{"pixel_values": images(32, 20_000 + step)} for step in range(4)]
        best = hf_vbp.prune(trained, data, VBPConfig(ratio=ratio))
        paper = hf_vbp.prune(trained, data, VBPConfig.preset("paper", ratio=ratio))
        assert r2(best.model) > max(r2(paper.model), r2(trained) - 0.05)
        assert best.plan.predicted["metric"] == "gradient"
        assert best.plan.predicted["relative_output_error"] > 0

    @pytest.mark.parametrize(
        "changes",
        [
            {"num_labels": 1},
            {"num_labels": 1, "problem_type": "regression"},
            {"num_labels": 3, "problem_type": "regression"},
            {"problem_type": "multi_label_classification"},
            {"num_labels": 0},
        ],
    )
    def test_no_label_is_drawn_from_them(self, changes: dict[str, Any], batches: Batches) -> None:
        model = make_model(**changes)
        statistics = hf_vbp.collect_statistics(model, batches, VBPConfig())
        # The kind of output whose random cotangents took the place of labels.
        assert statistics.fingerprints["output_metric"]["output"] in ("regression", "multi_label", "features")
        plan = hf_vbp.make_plan(model, statistics, VBPConfig(ratio=0.5))
        assert plan.predicted["metric"] == "gradient"
        assert plan.predicted["relative_output_error"] > 0

    def test_a_head_that_was_replaced_is_recognized_without_its_config(self, vit: Any, batches: Batches) -> None:
        vit.classifier = nn.Linear(32, 1)
        statistics = hf_vbp.collect_statistics(vit, batches, VBPConfig())
        assert statistics.fingerprints["output_metric"]["output"] == "regression"

    def test_single_labels_still_have_the_metric(self, batches: Batches) -> None:
        model = make_model(problem_type="single_label_classification")
        plan = hf_vbp.prune(model, batches, VBPConfig(ratio=0.5)).plan
        assert plan.predicted["metric"] == "gradient"

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"num_labels": 1}, "it has one output, a regression head"),
            ({"problem_type": "multi_label_classification"}, "its problem_type is 'multi_label_classification'"),
            ({"kind": "vit-backbone"}, "it returns no logits"),
        ],
    )
    def test_methods_that_need_labels_are_refused_before_the_pass(self, changes: dict[str, Any], reason: str) -> None:
        model = make_model(**changes)
        snip = VBPConfig(ratio=0.5, criterion="snip")
        for call in (lambda: hf_vbp.prune(model, FirstOnly(), snip), lambda: collect_statistics(model, snip)):
            with pytest.raises(ConfigurationError, match=f"criterion 'snip' needs the loss of a single.*{reason}"):
                call()
        with pytest.raises(ConfigurationError, match=f"The saliency needs .*{reason}"):
            collect_saliency(model, FirstOnly())
        with pytest.raises(ConfigurationError, match=f"The saliency needs .*{reason}"):
            collect_statistics(model, Requirements(saliency=True))

    def test_a_metric_of_zero_is_refused(self, vit: Any, batches: Batches) -> None:
        """As statistics of a regression head by an earlier version have it: the plan would be random."""
        statistics = hf_vbp.collect_statistics(vit, batches, VBPConfig())
        sites = tuple(replace(site, metric=torch.zeros(32, 32, dtype=torch.float64)) for site in statistics.sites)
        zero = replace(statistics, sites=sites)
        for config in (VBPConfig(ratio=0.5), VBPConfig(ratio=0.5, criterion="variance")):
            with pytest.raises(StatisticsError, match=r"zero at vit.layers.0.mlp, .*metric='identity'"):
                hf_vbp.make_plan(vit, zero, config)


def collect_statistics(model: Any, config: VBPConfig | Requirements) -> Any:
    return hf_vbp.collect_statistics(model, FirstOnly(), config)


class TestRandomForwards:
    def test_random_masking_is_fixed(self, batches: Batches) -> None:
        """The same patches of every image are masked; before, such models were refused."""
        config = {name: value for name, value in TINY.items() if name != "num_labels"}
        model = transformers.ViTMAEModel(transformers.ViTMAEConfig(**config)).eval()
        statistics = [hf_vbp.collect_statistics(model, batches, VBPConfig()) for _ in range(2)]
        assert all(
            torch.equal(one.moments.mean, other.moments.mean)
            for one, other in zip(*[s.sites for s in statistics], strict=True)
        )
        assert sum(hf_vbp.make_plan(model, statistics[0], VBPConfig(ratio=0.5)).widths) == 72

    def test_dropout_that_is_never_off(self, vit: Any) -> None:
        vit.vit.layernorm.register_forward_hook(lambda module, inputs, output: nn.functional.dropout(output, 0.1))
        with pytest.raises(UnsupportedModelError, match="in eval mode give different outputs"):
            hf_vbp.prune(vit, FirstOnly(), VBPConfig(ratio=0.5))

    def test_the_encoder_of_a_masked_model_is_the_way_out(self, tmp_path: Any, batches: Batches) -> None:
        """The example in docs/adapters.md."""
        fields = {name: value for name, value in TINY.items() if name != "num_labels"}
        transformers.ViTMAEModel(transformers.ViTMAEConfig(**fields)).save_pretrained(tmp_path)

        masked = transformers.ViTMAEConfig.from_pretrained(tmp_path)
        config = transformers.ViTConfig.from_dict({**masked.to_dict(), "model_type": "vit"})
        model = transformers.ViTModel.from_pretrained(tmp_path, config=config, add_pooling_layer=False)
        assert sum(hf_vbp.prune(model, batches, VBPConfig(ratio=0.5)).plan.widths) == 72

    def test_each_module_keeps_its_mode(self, vit: Any, batches: Batches) -> None:
        vit.train()
        vit.vit.embeddings.eval()
        modes = [module.training for module in vit.modules()]
        hf_vbp.adapters.prepared.prepare(vit)
        assert [module.training for module in vit.modules()] == modes


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
class TestInsideOtherModes:
    @pytest.mark.parametrize("criterion", ["obs", "snip", "variance"])
    def test_prune_gives_the_same_model(
        self, context: Callable[[], Any], criterion: str, vit: Any, batches: Batches
    ) -> None:
        config = VBPConfig(ratio=0.5, criterion=criterion)
        expected = hf_vbp.prune(vit, batches, config).model.state_dict()
        with context():
            made_inside = [{name: tensor.clone() for name, tensor in batch.items()} for batch in batches]
            found = hf_vbp.prune(vit, made_inside, config).model
        assert all(torch.equal(tensor, expected[name]) for name, tensor in found.state_dict().items())
        # A result that could not be trained would be useless.
        found(pixel_values=batches[0]["pixel_values"]).logits.sum().backward()
        assert found.vit.layers[0].mlp.fc2.weight.grad is not None

    def test_the_parts_can_be_used_outside(self, context: Callable[[], Any], vit: Any, batches: Batches) -> None:
        config = VBPConfig(ratio=0.5)
        with context():
            statistics = hf_vbp.collect_statistics(vit, batches, config)
            rankings = rank_sites(vit, statistics, config)
            scored = precompute_scores(vit, statistics, config)
            plan = hf_vbp.make_plan(vit, statistics, config, rankings=rankings)
            pruned = hf_vbp.apply_plan(vit, plan, statistics)
        assert hf_vbp.make_plan(vit, scored, config) == plan == hf_vbp.make_plan(vit, statistics, config)
        assert not any(parameter.is_inference() for parameter in pruned.parameters())
        hf_vbp.collect_statistics(pruned, batches, config)


class TestPackedGates:
    """A packed gated MLP must not reach the low-level calls, which would leave a model that cannot run."""

    class Packed(nn.Module):
        """SwiGLU with both up projections in one linear."""

        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(32, 96), nn.Linear(48, 32)

        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            gate, up = self.fc1(hidden_states).chunk(2, -1)
            return self.fc2(nn.functional.silu(gate) * up)  # type: ignore[no-any-return]

    @pytest.fixture
    def packed(self) -> Any:
        model = make_model()
        for layer in model.vit.layers:
            layer.mlp = self.Packed()
        return model

    def test_it_is_pruned_as_gated(self, packed: Any, batches: Batches) -> None:
        pruned = hf_vbp.prune(packed, batches, VBPConfig(ratio=0.5)).model
        widths = [layer.mlp.fc2.in_features for layer in pruned.vit.layers]
        assert [layer.mlp.fc1.out_features for layer in pruned.vit.layers] == [2 * width for width in widths]
        assert pruned(pixel_values=batches[0]["pixel_values"]).logits.isfinite().all()

    def test_every_step_refuses_it_by_an_adapter_of_pairs(
        self, packed: Any, vit: Any, batches: Batches, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(registry_module, "_ADAPTERS", {"vit": LinearPairAdapter()})
        config = VBPConfig(ratio=0.5)
        statistics = hf_vbp.collect_statistics(vit, batches, config)
        plan = hf_vbp.make_plan(vit, statistics, config)
        steps: list[Callable[[], Any]] = [
            lambda: hf_vbp.prune(packed, Unread(), config),
            lambda: hf_vbp.collect_statistics(packed, Unread(), config),
            lambda: hf_vbp.make_plan(packed, statistics, config),
            lambda: rank_sites(packed, statistics, config),
            lambda: precompute_scores(packed, statistics, config),
            lambda: hf_vbp.apply_plan(packed, plan, statistics, inplace=True),
            lambda: collect_saliency(packed, Unread()),
        ]
        before = [tuple(tensor.shape) for tensor in packed.state_dict().values()]
        for step in steps:
            with pytest.raises(
                UnsupportedModelError, match=r"mlp\.fc1 has 96 outputs, but \S+mlp\.fc2 48 inputs; a packed gated"
            ):
                step()
        assert [tuple(tensor.shape) for tensor in packed.state_dict().values()] == before


@pytest.mark.parametrize(
    ("budget", "advice"),
    [
        ({"ratio": 1e-9}, "hidden neurons: 1e-09 is met by the dense model.*a larger share"),
        ({"target_macs": 1 - 1e-10, "levers": ("mlp",)}, "MACs: 1 is met by the dense model.*a smaller share"),
        ({"target_macs": 1 - 1e-10}, "MACs: 1 is met by the dense model.*a smaller share"),
        ({"target_parameters": 1 - 1e-10}, "parameters: 1 is met by the dense model.*a smaller share"),
    ],
)
def test_a_budget_that_removes_nothing_is_refused_before_the_pass(
    vit: Any, budget: dict[str, Any], advice: str
) -> None:
    with pytest.raises(BudgetError, match=advice):
        hf_vbp.prune(vit, Unread(), VBPConfig(**budget))


def test_the_smallest_ratio_removes_a_neuron(vit: Any, batches: Batches) -> None:
    assert sum(hf_vbp.prune(vit, batches, VBPConfig(ratio=1e-6)).plan.widths) == 3 * TINY["intermediate_size"] - 1

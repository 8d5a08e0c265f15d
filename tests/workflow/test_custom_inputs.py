"""A model whose inputs cannot be made from its config: the first batch of the data takes the place of the example."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

import hf_vbp
from hf_vbp.adapters import prepare
from hf_vbp.checkpoint import receipt as receipt_module
from hf_vbp.costs.counts import count_macs
from hf_vbp.errors import UnsupportedModelError
from tests.families.running import hooked

TOKENS, CHANNELS, HIDDEN, WIDTH, IMAGES = 6, 5, 16, 24, 12


class ScanConfig(PretrainedConfig):
    model_type = "scan-net"

    def __init__(self, lines: int = CHANNELS, **more: Any) -> None:
        super().__init__(**more)
        self.lines = lines


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(HIDDEN, WIDTH), nn.Linear(WIDTH, HIDDEN)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        moved: torch.Tensor = values + self.fc2(self.fc1(values).relu())
        return moved


class ScanNet(PreTrainedModel):
    """A classifier of scans with their spacing, neither of which hf_vbp knows."""

    config_class = ScanConfig
    main_input_name = "scan"

    def __init__(self, config: ScanConfig) -> None:
        super().__init__(config)
        self.embed = nn.Linear(config.lines + 1, HIDDEN)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.classifier = nn.Linear(HIDDEN, 3)
        self.post_init()

    def forward(self, scan: torch.Tensor, spacing: torch.Tensor) -> ImageClassifierOutput:
        values = self.embed(torch.cat([scan, spacing[:, None].expand(-1, scan.shape[1], 1)], -1))
        for block in self.blocks:
            values = block(values)
        return ImageClassifierOutput(logits=self.classifier(values.mean(1)))


class PixelNet(ScanNet):
    """The same with a known name for the first input, from which an example is made that lacks the second one."""

    main_input_name = "pixel_values"

    def forward(self, pixel_values: torch.Tensor, spacing: torch.Tensor) -> ImageClassifierOutput:  # type: ignore[override]
        return super().forward(pixel_values, spacing)


def make(cls: Any = ScanNet) -> Any:
    torch.manual_seed(0)
    model = cls(ScanConfig()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.4)
    return model


def items(name: str = "scan") -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        {name: torch.randn(TOKENS, CHANNELS, generator=generator), "spacing": torch.rand(1, generator=generator)}
        for _ in range(IMAGES)
    ]


class Streamed(IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        return iter(items())


DATA = {
    "list": lambda: list(DataLoader(items(), 4)),  # type: ignore[arg-type]
    "map-style": lambda: DataLoader(items(), 4),  # type: ignore[arg-type]
    "stream": lambda: DataLoader(Streamed(), 4),
    "iterator": lambda: iter(list(DataLoader(items(), 4))),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("kind", DATA)
def test_it_is_pruned_from_data_alone(kind: str) -> None:
    model, seen = make(), []
    with (
        hooked(*(block.fc2.register_forward_pre_hook(lambda _, args: seen.append(args[0])) for block in model.blocks)),
        torch.no_grad(),
    ):
        model(**next(iter(DataLoader(items(), IMAGES))))  # type: ignore[arg-type]
    result = hf_vbp.prune(model, DATA[kind](), hf_vbp.VBPConfig(ratio=0.5))
    assert sum(result.plan.widths) == WIDTH
    for site, hidden in zip(result.statistics.sites, seen, strict=True):
        torch.testing.assert_close(site.moments.mean, hidden.flatten(0, -2).double().mean(0), rtol=1e-5, atol=1e-6)
    # The MACs are those of one scan of the data.
    per_token = (CHANNELS + 1) * HIDDEN + 2 * 2 * WIDTH * HIDDEN
    assert result.results["cost"]["dense"]["macs"] == TOKENS * per_token + 3 * HIDDEN
    assert result.results["cost"]["pruned"]["macs"] == TOKENS * (per_token - 2 * WIDTH * HIDDEN) + 3 * HIDDEN


@pytest.mark.parametrize("fields", [{"target_macs": 0.7}, {"ratio": 0.5, "criterion": "snip"}])
def test_budgets_and_criteria_that_need_a_forward_pass(fields: dict[str, Any]) -> None:
    result = hf_vbp.prune(make(), DATA["list"](), hf_vbp.VBPConfig(**fields))
    assert sum(result.plan.widths) < 2 * WIDTH
    # The closed form of the plan is what is counted on the pruned model.
    assert result.plan.cost["pruned"] == result.results["cost"]["pruned"]


@pytest.mark.parametrize(("cls", "says"), [(ScanNet, "no input can be made"), (PixelNet, "fails on pixel_values")])
def test_without_data_the_error_says_what_to_pass(cls: Any, says: str) -> None:
    name = cls.main_input_name
    model, data = make(cls), list(DataLoader(items(name), 4))  # type: ignore[arg-type]
    config = hf_vbp.VBPConfig(ratio=0.5)
    statistics = hf_vbp.collect_statistics(model, data, config)
    advice = rf"{says}.*[Pp]ass data, or a batch.* hf_vbp\.adapters\.prepare\(model, batch\)"
    for step in (
        lambda: hf_vbp.make_plan(model, statistics, config),
        lambda: hf_vbp.prune(model, None, config, statistics=statistics),
    ):
        with pytest.raises(UnsupportedModelError, match=advice):
            step()
    expected = hf_vbp.prune(model, data, config, statistics=statistics)
    prepared = prepare(model, data[0])
    plan = hf_vbp.make_plan(prepared, statistics, config)
    pruned = hf_vbp.apply_plan(prepared, plan, statistics)
    parts = hf_vbp.PruningResult.from_parts(prepared, pruned, plan, statistics)
    assert plan == expected.plan
    for key, tensor in expected.model.state_dict().items():
        assert torch.equal(pruned.state_dict()[key], tensor), key
    assert parts.results["cost"]["pruned"]["parameters"] == expected.results["cost"]["pruned"]["parameters"]


def test_the_receipt_compares_on_an_image_of_the_data(vit: Any, batches: Any, tmp_path: Any, monkeypatch: Any) -> None:
    result = hf_vbp.prune(vit, batches, hf_vbp.VBPConfig(ratio=0.5))
    assert torch.equal(result.inputs["pixel_values"], batches[0]["pixel_values"][:1])
    monkeypatch.setattr(receipt_module, "example_batch", lambda *_: pytest.fail("an example was made"))
    receipt = hf_vbp.save_checkpoint(result, tmp_path / "out")
    assert [entry.max_abs_difference for entry in receipt.entries] == [0.0, 0.0]


def test_a_text_of_a_batch_counts_once(monkeypatch: Any) -> None:
    """The MACs of a dual encoder are those of one image, however many prompts the batches have."""
    from tests.families.running import BY_NAME, model_of

    model, batch = model_of("CLIPModel"), BY_NAME["CLIPModel"].batch(4)
    prompts = {**batch, "input_ids": batch["input_ids"].repeat(3, 1)}
    if "attention_mask" in batch:
        prompts["attention_mask"] = batch["attention_mask"].repeat(3, 1)
    result = hf_vbp.prune(model, [prompts], hf_vbp.VBPConfig(ratio=0.3))
    one = {key: value[:1] for key, value in prompts.items()}
    assert result.results["cost"]["dense"]["macs"] == count_macs(model, one, "vision_model")

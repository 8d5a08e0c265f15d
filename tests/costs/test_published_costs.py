"""Parameters and MACs of Swin and ConvNeXt: the published ones, and closed forms of the widths of their MLPs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import transformers

import hf_vbp
from hf_vbp.adapters.prepared import prepare_structure
from hf_vbp.adapters.registry import find_sites
from hf_vbp.costs.counts import count_macs, count_parameters
from hf_vbp.costs.latency import with_widths
from hf_vbp.costs.widths import width_costs


@dataclass(frozen=True)
class Shape:
    """A hierarchical classifier; each stage halves the side of the feature map and doubles the width."""

    family: str
    width: int
    depths: Sequence[int]
    heads: Sequence[int] = ()
    image: int = 224
    window: int = 7
    classes: int = 1000
    published: tuple[int, float] | None = field(default=None, compare=False)
    """Parameters of the released weights, and GFLOPs in the table of the paper (multiply-accumulates, one decimal)."""

    def build(self) -> Any:
        options: dict[str, Any] = {"image_size": self.image, "num_labels": self.classes, "depths": list(self.depths)}
        if self.family == "swin":
            options.update(embed_dim=self.width, num_heads=list(self.heads), window_size=self.window)
            return transformers.SwinForImageClassification(transformers.SwinConfig(**options))
        options["hidden_sizes"] = [width for _, width in self.stages()]
        return transformers.ConvNextForImageClassification(transformers.ConvNextConfig(**options))

    def stages(self) -> list[tuple[int, int]]:
        """The number of tokens and the width of each stage, behind patches of 4 x 4 pixels."""
        return [((self.image // 4 >> s) ** 2, self.width << s) for s in range(len(self.depths))]

    def dense(self) -> list[int]:
        """Four hidden neurons for each channel."""
        return [4 * width for (_, width), depth in zip(self.stages(), self.depths) for _ in range(depth)]


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def cost(shape: Shape, widths: Sequence[int]) -> tuple[int, int]:
    """The closed form: parameters and MACs of one image for these widths of the MLPs, in the order of the blocks."""
    stages, of_block = shape.stages(), swin_block if shape.family == "swin" else convnext_block
    (tokens, first), last = stages[0], stages[-1][1]
    parameters = linear(3 * 4**2, first) + 2 * first + 2 * last + linear(last, shape.classes)
    macs = tokens * 3 * 4**2 * first + last * shape.classes
    left: Iterator[int] = iter(widths)
    for stage, (tokens, width) in enumerate(stages):
        for _ in range(shape.depths[stage]):
            more = of_block(shape, stage, tokens, width, next(left))
            parameters, macs = parameters + more[0], macs + more[1]
        if stage + 1 < len(stages):
            # Four neighbors become one token of twice the width. Swin normalizes them together, without a bias.
            merging = 4 * width * 2 * width
            parameters += merging + (2 * 4 * width if shape.family == "swin" else 2 * width + 2 * width)
            macs += stages[stage + 1][0] * merging
    assert next(left, None) is None
    return parameters, macs


def swin_block(shape: Shape, stage: int, tokens: int, width: int, hidden: int) -> tuple[int, int]:
    """Two norms, four projections, a table of relative positions, attention in windows, and the MLP."""
    table = (2 * shape.window - 1) ** 2 * shape.heads[stage]
    parameters = 4 * width + 4 * linear(width, width) + table + linear(width, hidden) + linear(hidden, width)
    attention = 4 * tokens * width**2 + 2 * tokens * shape.window**2 * width
    return parameters, attention + 2 * tokens * width * hidden


def convnext_block(shape: Shape, stage: int, tokens: int, width: int, hidden: int) -> tuple[int, int]:
    """A depthwise convolution of 7 x 7, a norm, the MLP, and a scale."""
    parameters = 50 * width + 2 * width + linear(width, hidden) + linear(hidden, width) + width
    return parameters, tokens * (49 * width + 2 * width * hidden)


SMALL, LARGE = (2, 2, 6, 2), (2, 2, 18, 2)
PUBLISHED = {
    "Swin-T": Shape("swin", 96, SMALL, (3, 6, 12, 24), published=(28_288_354, 4.5)),
    "Swin-S": Shape("swin", 96, LARGE, (3, 6, 12, 24), published=(49_606_258, 8.7)),
    "Swin-B": Shape("swin", 128, LARGE, (4, 8, 16, 32), published=(87_768_224, 15.4)),
    "ConvNeXt-T": Shape("convnext", 96, (3, 3, 9, 3), published=(28_589_128, 4.5)),
    "ConvNeXt-S": Shape("convnext", 96, (3, 3, 27, 3), published=(50_223_688, 8.7)),
    "ConvNeXt-B": Shape("convnext", 128, (3, 3, 27, 3), published=(88_591_464, 15.4)),
}
TINY = {
    "Swin": Shape("swin", 8, (1, 2), (2, 4), image=32, window=4, classes=5),
    "ConvNeXt": Shape("convnext", 8, (1, 1, 2, 1), image=32, classes=5),
}


def each(shapes: dict[str, Shape], slow: Sequence[str] = ()) -> Callable[..., Any]:
    params = [pytest.param(s, id=name, marks=[pytest.mark.slow] * (name in slow)) for name, s in shapes.items()]
    return pytest.mark.parametrize("shape", params)


@each(PUBLISHED)
def test_published_sizes(shape: Shape) -> None:
    with torch.device("meta"):
        model = shape.build()
    assert shape.published is not None
    parameters, giga = shape.published
    assert count_parameters(model) == parameters
    # The papers give one decimal of what they call FLOPs, which are multiply-accumulates.
    assert abs(count_macs(model) / 1e9 - giga) < 0.05
    assert (count_parameters(model), count_macs(model)) == cost(shape, shape.dense())


@each(PUBLISHED, slow=[name for name in PUBLISHED if not name.endswith("-T")])
def test_pruned_sizes_follow_the_closed_form(shape: Shape) -> None:
    with torch.device("meta"):
        prepared = prepare_structure(shape.build().eval())
    assert prepared.widths == shape.dense()
    generator = torch.Generator().manual_seed(0)
    widths = [int(torch.randint(1, width + 1, (), generator=generator)) for width in shape.dense()]
    expected = cost(shape, widths)
    small = with_widths(prepared, widths)
    assert (count_parameters(small), count_macs(small)) == expected
    closed = width_costs(prepared).of(widths)
    assert (closed["parameters"], closed["macs"]) == expected


@each(TINY)
def test_figures_of_prune_follow_the_closed_form(shape: Shape) -> None:
    torch.manual_seed(0)
    model = shape.build().eval()
    images = [{"pixel_values": torch.randn(4, 3, shape.image, shape.image)}]
    result = hf_vbp.prune(model, images, hf_vbp.VBPConfig.preset("paper", ratio=0.4))
    widths = [site.intermediate_size for site in find_sites(result.model)]
    assert widths == result.plan.widths != shape.dense()
    for when, expected in (("dense", cost(shape, shape.dense())), ("pruned", cost(shape, widths))):
        assert (result.plan.cost[when]["parameters"], result.plan.cost[when]["macs"]) == expected
    assert (count_parameters(result.model), count_macs(result.model)) == cost(shape, widths)

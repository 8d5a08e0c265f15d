"""What the contract test needs of a family: statistics, plans, pruned models, and activations by plain hooks."""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

import hf_vbp
from hf_vbp import VBPConfig
from hf_vbp.adapters.prepared import PreparedModel, prepare
from hf_vbp.compensation.base import CompensationWarning

from . import zoo_towers
from .family import Family, Site
from .running import BY_NAME, hooked, model_of, neurons_last
from .zoo import FAMILIES

RATIO = 0.3
WHOLE = zoo_towers.WHOLE
"""Language models with a vision tower, which is pruned as a model of its own."""
PRUNED = [family for family in FAMILIES if family.sites and family not in WHOLE]
WITHOUT = [family for family in FAMILIES if not family.sites]


def _kind(family: Family) -> tuple[str, frozenset[Any]]:
    """The name of the architecture without its head, and the layouts of its MLPs."""
    stem = re.split(r"(?<=\w)(?=For[A-Z]|Model|Backbone|Vision)", family.class_name, maxsplit=1)[0]

    def local(name: str, parent: str) -> str:
        return name.removeprefix(f"{parent}.")

    layouts = frozenset(
        (tuple(local(up, site.parent) for up in site.ups), local(site.down, site.parent), site.between, site.behind)
        for site in family.sites
    )
    return (family.name if family.needs else stem + "no_bias" * ("no_bias" in family.name)), layouts


def _first_of_each_kind(families: Sequence[Family]) -> frozenset[str]:
    first: dict[Any, str] = {}
    for family in families:
        first.setdefault(_kind(family), family.name)
    return frozenset(first.values())


FIRST = _first_of_each_kind(PRUNED)
"""Families that are the first of their architecture and layouts. What the head of the others changes little is tested
with them in ``make test-slow``."""

NOT_EXPORTED = {
    "EomtForUniversalSegmentation",
    "Qwen2VisionTransformerPretrainedModel",
    "Qwen2_5_VisionTransformerPretrainedModel",
    "Qwen3VLVisionModel",
    "VideoMAEForPreTraining",
}
"""Their forward passes read values of the inputs: grids of patches, masks of tokens, or a probability of masks."""
EXPORTED_IN_SUITE = (
    "ViTForImageClassification",
    "DeiTModel",
    "Data2VecVisionForImageClassification",
    "Dinov2Model",
    "ImageGPTModel",
    "PoolFormerForImageClassification",
    "ConvNextForImageClassification",
    "ConvNextV2ForImageClassification",
    "CLIPVisionModel",
    "SiglipVisionModel",
    "VideoMAEModel",
    "EomtForUniversalSegmentation",
)
"""Classes whose export by torch.export is tested in the suite; those of all others in ``make test-slow``."""
BY_CLASS_ONLY = {
    "CLIPVisionModelWithProjection",
    "ConvNextBackbone",
    "DINOv3ViTBackbone",
    "Dinov2Backbone",
    "HieraBackbone",
    "LwDetrViTBackbone",
    "MetaClip2VisionModel",
    "MetaClip2VisionModelWithProjection",
    "PvtV2Backbone",
    "Qwen2VisionTransformerPretrainedModel",
    "SwinBackbone",
    "VitDetBackbone",
}
"""In no auto class of transformers, or in AutoBackbone only, which opens no local folder: loaded by their class."""


@dataclass(frozen=True, eq=False)
class Work:
    """A family, its dense model, and the statistics of two batches of two images."""

    family: Family
    prepared: PreparedModel
    batches: tuple[dict[str, Any], ...]
    statistics: Any

    @property
    def model(self) -> Any:
        """The dense model."""
        return self.prepared.model

    @property
    def sites(self) -> list[Site]:
        """The sites of the zoo, in the order of the library."""
        by_down = {site.down: site for site in self.family.sites}
        return [by_down[site.layout.down] for site in self.prepared.sites]

    def config(self, criterion: str, compensation: str) -> VBPConfig:
        """A configuration with the ratio of this test."""
        return VBPConfig(ratio=RATIO, criterion=criterion, compensation=compensation)

    def plan(self, criterion: str, compensation: str) -> Any:
        """A plan of that method."""
        return hf_vbp.make_plan(self.prepared, self.statistics, self.config(criterion, compensation))

    def pruned(self, criterion: str, compensation: str) -> Any:
        """A pruned copy of the model."""
        return self.apply(self.plan(criterion, compensation))

    def apply(self, plan: Any) -> Any:
        """A pruned copy of the model by a plan, with the first fit where neurons are mixed."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CompensationWarning)
            return hf_vbp.apply_plan(self.model, plan, self.statistics)

    @property
    def all_images(self) -> dict[str, Any]:
        """The images of both batches in one."""
        return fixed(self.model, self.family.batch(4))

    @property
    def mixes(self) -> bool:
        """Whether a normalization over the neurons of an MLP changes the others when some become constant."""
        return any(site.mixes for site in self.family.sites)


@cache
def work_of(name: str) -> Work:
    """The work of a family, done once in a process. Its model must not be changed."""
    family = BY_NAME[name]
    prepared = prepare(model_of(name))
    batches = tuple(fixed(prepared.model, family.batch(2, 0, start)) for start in (0, 2))
    statistics = hf_vbp.collect_statistics(prepared, batches, VBPConfig())
    return Work(family, prepared, batches, statistics)


@cache
def simple_of(name: str) -> tuple[Any, Any]:
    """The plan and the pruned model of the paper's preset; where a site has no bias, without a compensation."""
    work = work_of(name)
    changes = {} if has_bias(work.family) else {"compensation": "none"}
    plan = hf_vbp.make_plan(work.prepared, work.statistics, VBPConfig.preset("paper", ratio=RATIO, **changes))
    return plan, work.apply(plan)


def has_bias(family: Family) -> bool:
    """Whether the mean of the removed neurons can be kept at every site."""
    return all(site.bias or site.behind for site in family.sites)


def tensors(output: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    """All floating tensors in an output, by name."""
    if isinstance(output, torch.Tensor):
        return {prefix: output} if output.is_floating_point() else {}
    pairs = output.items() if isinstance(output, Mapping) else ()
    if isinstance(output, list | tuple):
        pairs = enumerate(output)
    found: dict[str, torch.Tensor] = {}
    for key, value in pairs:
        found.update(tensors(value, f"{prefix}.{key}"))
    return found


def fixed(model: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """A batch with which every pass gives the same output: random masking (ViTMAE) needs a `noise`."""
    if "ViTMAE" in type(model).__name__ and "noise" not in batch:
        noise = torch.rand(16, generator=torch.Generator().manual_seed(3))
        return {**batch, "noise": noise.expand(len(batch["pixel_values"]), -1)}
    return batch


def outputs(model: Any, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    """All floating tensors in the output of a model."""
    with torch.no_grad():
        return tensors(model(**fixed(model, batch)))


def difference(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> float:
    """The largest difference, relative to the largest value of each output."""
    assert found.keys() == expected.keys()
    worst = 0.0
    for key, value in expected.items():
        assert found[key].shape == value.shape, key
        if value.numel():
            scale = value.abs().max().clamp(min=1e-6)
            worst = max(worst, float((found[key] - value).abs().max() / scale))
    return worst


def captured(work: Work, batch: dict[str, Any]) -> list[torch.Tensor]:
    """The hidden neurons of each site ``(tokens, width)`` in float64, without padded and masked tokens."""
    modules = dict(work.model.named_modules())
    seen: list[list[torch.Tensor]] = [[] for _ in work.sites]

    def keep(index: int, site: Site) -> Any:
        def hook(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            seen[index].append(counted(neurons_last(inputs[0].detach(), site.kind), batch).double())

        return modules[site.down].register_forward_pre_hook(hook)

    with hooked(*(keep(index, site) for index, site in enumerate(work.sites))), torch.no_grad():
        work.model(**batch)
    return [torch.cat(values) for values in seen]


def counted(values: torch.Tensor, batch: Mapping[str, Any]) -> torch.Tensor:
    """The rows of the tokens that count: all, without those of patches or pixels that a mask of images excludes."""
    rows = values.reshape(-1, values.shape[-1])
    for key in ("pixel_attention_mask", "patch_attention_mask"):
        if key in batch:
            mask = batch[key].bool().flatten()
            assert len(mask) == len(rows)
            return rows[mask]
    if "pixel_mask" in batch:
        mask = batch["pixel_mask"].bool()
        stride = round((mask.numel() / len(rows)) ** 0.5)
        mask = mask[:, ::stride, ::stride].flatten()
        assert len(mask) == len(rows)
        return rows[mask]
    return rows


@contextmanager
def held(work: Work, plan: Any, values: Sequence[torch.Tensor | None]) -> Iterator[None]:
    """The dense model, with the pruned neurons of each site held at values ``(width,)``; None for zero."""
    modules = dict(work.model.named_modules())

    def hold(site: Site, kept: torch.Tensor, mean: torch.Tensor | None) -> Any:
        def hook(module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            hidden = neurons_last(inputs[0], site.kind).clone()
            removed = torch.ones(hidden.shape[-1], dtype=torch.bool)
            removed[kept] = False
            hidden[..., removed] = 0.0 if mean is None else mean[removed].to(hidden.dtype)
            return (hidden.movedim(-1, 1) if site.kind == "Conv2d" else hidden, *inputs[1:])

        return modules[site.down].register_forward_pre_hook(hook)

    hooks = [hold(s, k.kept_indices(), v) for s, k, v in zip(work.sites, plan.sites, values, strict=True)]
    with hooked(*hooks):
        yield


TOWERS = {
    "CLIPModel": "vision_model",
    "SiglipModel": "vision_model",
    "LlavaForConditionalGeneration": "model.vision_tower",
    "Qwen2VLForConditionalGeneration": "model.visual",
    "Qwen2_5_VLForConditionalGeneration": "model.visual",
    "Idefics3ForConditionalGeneration": "model.vision_model",
    "Qwen3VLForConditionalGeneration": "model.visual",
    "VisionEncoderDecoderModel": "encoder",
    "GitForCausalLM": "git.image_encoder",
}
"""Where models with several towers have the one that is pruned as a model of its own."""


def tower_config(name: str, config: dict[str, Any]) -> dict[str, Any]:
    """The part of a config that builds this tower."""
    part: dict[str, Any] = config["encoder" if name == "VisionEncoderDecoderModel" else "vision_config"]
    return part


def with_smaller_tower(name: str) -> tuple[Any, Any]:
    """A whole model whose vision tower was pruned in place, by the default method, and the plan."""
    model = BY_NAME[name].build()
    tower = model.get_submodule(TOWERS[name])
    batch = BY_NAME[name].batch(4)
    pixels = batch["pixel_values"]
    if "image_grid_thw" in batch:
        images = {"hidden_states": pixels, "grid_thw": batch["image_grid_thw"]}
    else:
        images = {"pixel_values": pixels.flatten(0, 1) if pixels.dim() == 5 else pixels}
    statistics = hf_vbp.collect_statistics(tower, [images], VBPConfig())
    plan = hf_vbp.make_plan(tower, statistics, VBPConfig(ratio=RATIO))
    assert hf_vbp.apply_plan(tower, plan, statistics, inplace=True) is tower
    return model, plan

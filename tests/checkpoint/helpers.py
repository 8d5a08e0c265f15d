"""Pruned tiny models, and checks of them."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import SamVisionConfig, SamVisionModel

from hf_vbp.modeling.config_record import write_widths
from hf_vbp.modeling.modeling_hf_vbp import Layout, Record, find_mlps, read_record, resize
from tests.conftest import TINY, make_model

WIDTHS = [11, 0, 37]
UNIFORM = [24, 24, 24]
DENSE = [TINY["intermediate_size"]] * TINY["num_hidden_layers"]


def make_pruned(
    kind: str = "vit", widths: list[int] = WIDTHS, *, dtype: torch.dtype = torch.float32, **changes: Any
) -> Any:
    """Return a tiny model whose MLPs have ``widths``, with fc2 biases that matter."""
    names = Layout(("lin1",), "lin2") if kind == "sam-backbone" else Layout(("fc1",), "fc2")
    model = make_sam(dtype) if kind == "sam-backbone" else make_model(kind, dtype=dtype, **changes)
    record = Record(tuple(widths), (names,) * len(widths))
    assert resize(model, record)
    with torch.no_grad():
        for mlp in find_mlps(model, record):
            mlp.down.bias.normal_(0, 0.3)
    extra = {"criterion": "variance"}
    write_widths(model.config, widths, dense_widths=DENSE, modules=record.modules, extra=extra)
    return model.eval()


def make_sam(dtype: torch.dtype = torch.float32) -> Any:
    """Return a tiny SAM image encoder, whose linears have other names than those of ViT."""
    torch.manual_seed(0)
    config = SamVisionConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, mlp_dim=48, output_channels=16, image_size=32,
        patch_size=8, window_size=2, global_attn_indexes=[1],
    )  # fmt: skip
    return SamVisionModel(config).to(dtype).eval()


def images(seed: int = 7, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return random images ``(2, 3, 32, 32)``."""
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed)).to(dtype)


@torch.no_grad()
def outputs(model: Any) -> dict[str, torch.Tensor]:
    """Return all outputs of a model in evaluation mode."""
    was_training = model.training
    result = dict(model.eval()(pixel_values=images(dtype=next(model.parameters()).dtype)))
    model.train(was_training)
    return result


def assert_same_outputs(actual: Any, expected: Any) -> None:
    """Assert that two models give the same outputs bit for bit."""
    first, second = outputs(actual), outputs(expected)
    assert first.keys() == second.keys()
    assert first
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def widths_of(model: Any) -> list[int]:
    """Return the real widths of a model."""
    return [mlp.width for mlp in find_mlps(model, read_record(model.config))]


def read_config(folder: Path | str) -> dict[str, Any]:
    """Return the content of config.json."""
    return json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))


def change_config(folder: Path, **changes: Any) -> None:
    """Overwrite keys of config.json; None removes one."""
    config = {**read_config(folder), **changes}
    config = {name: value for name, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def assert_whole(folder: Path | str, widths: list[int]) -> None:
    """Assert that a folder keeps the widths, and names no file that it lacks."""
    config = read_config(folder)
    assert config["vbp"]["widths"] == widths
    assert "allow_global_per_layer_attribute_access" not in config
    for reference in config.get("auto_map", {}).values():
        assert "--" not in reference
        assert (Path(folder) / f"{reference.split('.')[0]}.py").is_file()

"""Models that build a decoder from a copy of their config."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from hf_vbp.modeling import modeling_hf_vbp
from hf_vbp.modeling.config_record import record_pruning
from hf_vbp.modeling.modeling_hf_vbp import find_mlps, resize
from tests.families.family import Build, nested, of
from tests.families.running import BY_NAME
from tests.families.sizes import TEXT, VIT

CLIPSEG = of(
    "CLIPSegForImageSegmentation",
    "CLIPSegConfig",
    vision_config=nested("CLIPSegVisionConfig", **VIT),
    text_config=nested("CLIPSegTextConfig", **TEXT),
    projection_dim=16,
    extract_layers=[1, 2],
    reduce_dim=8,
    decoder_num_attention_heads=2,
    decoder_intermediate_size=12,
)
XCLIP = of(
    "XCLIPModel",
    "XCLIPConfig",
    vision_config=nested(
        "XCLIPVisionConfig",
        **VIT,
        num_frames=4,
        mit_hidden_size=16,
        mit_intermediate_size=12,
        mit_num_hidden_layers=1,
        mit_num_attention_heads=2,
    ),
    text_config=nested("XCLIPTextConfig", **TEXT),
    projection_dim=16,
    prompt_layers=1,
    prompt_num_attention_heads=2,
)


@pytest.fixture(autouse=True)
def _no_change_of_the_generator() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.mark.parametrize(
    "build", [BY_NAME["ViTMAEForPreTraining"].build, BY_NAME["VideoMAEForPreTraining"].build, CLIPSEG, XCLIP]
)
def test_the_class_of_the_checkpoint_builds_both_stacks_from_the_config(build: Build) -> None:
    model = build()
    mlps = find_mlps(model)
    dense, widths = [mlp.width for mlp in mlps], [5, 9, *[7] * (len(mlps) - 2)]
    layouts = [
        mlp.layout._replace(
            ups=tuple(f"{mlp.parent}.{up}" for up in mlp.layout.ups), down=f"{mlp.parent}.{mlp.layout.down}"
        )
        for mlp in mlps
    ]
    resize(model, widths)
    record_pruning(model, layouts, dense)
    config = type(model.config).from_dict(model.config.to_dict())
    built = getattr(modeling_hf_vbp, type(model).__name__)(config)
    shapes = {key: value.shape for key, value in nn.Module.state_dict(built).items()}
    assert shapes == {key: value.shape for key, value in model.state_dict().items()}
    assert [mlp.width for mlp in find_mlps(built)] == widths

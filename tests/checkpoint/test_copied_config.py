"""Models that build a decoder from a copy of their config."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from hf_vbp.modeling import modeling_hf_vbp
from hf_vbp.modeling.config_record import qualified_layout, record_pruning
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
    resize(model, widths)
    record_pruning(model, [qualified_layout(mlp) for mlp in mlps], dense)
    config = type(model.config).from_dict(model.config.to_dict())
    built = getattr(modeling_hf_vbp, type(model).__name__)(config)
    shapes = {key: value.shape for key, value in nn.Module.state_dict(built).items()}
    assert shapes == {key: value.shape for key, value in model.state_dict().items()}
    assert [mlp.width for mlp in find_mlps(built)] == widths


def test_equal_widths_are_those_of_the_stock_config() -> None:
    """The copy has an ``intermediate_size`` of its own, so transformers alone builds both stacks."""
    model = BY_NAME["VideoMAEForPreTraining"].build()
    mlps = find_mlps(model)
    dense = [mlp.width for mlp in mlps]
    resize(model, [7, 7])
    record_pruning(model, [qualified_layout(mlp) for mlp in mlps], dense)
    assert "vbp" not in vars(model.config)
    built = type(model)(type(model.config).from_dict(model.config.to_dict()))
    assert {key: value.shape for key, value in built.state_dict().items()} == {
        key: value.shape for key, value in model.state_dict().items()
    }

"""Models that build a decoder from a copy of their config."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from hf_vbp.modeling import modeling_hf_vbp
from hf_vbp.modeling.config_record import record_pruning
from hf_vbp.modeling.modeling_hf_vbp import find_mlps, resize
from tests.families.running import BY_NAME


@pytest.fixture(autouse=True)
def _no_change_of_the_generator() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.mark.parametrize("name", ["ViTMAEForPreTraining", "VideoMAEForPreTraining"])
def test_the_class_of_the_checkpoint_builds_both_stacks_from_the_config(name: str) -> None:
    model = BY_NAME[name].build()
    mlps = find_mlps(model)
    dense, widths = [mlp.width for mlp in mlps], [5, 9]
    layouts = [
        mlp.layout._replace(
            ups=tuple(f"{mlp.parent}.{up}" for up in mlp.layout.ups), down=f"{mlp.parent}.{mlp.layout.down}"
        )
        for mlp in mlps
    ]
    resize(model, widths)
    record_pruning(model, layouts, dense)
    config = type(model.config).from_dict(model.config.to_dict())
    built = getattr(modeling_hf_vbp, name)(config)
    shapes = {key: value.shape for key, value in nn.Module.state_dict(built).items()}
    assert shapes == {key: value.shape for key, value in model.state_dict().items()}
    assert [mlp.width for mlp in find_mlps(built)] == widths

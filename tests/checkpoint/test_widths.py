"""The record in the config is written and read."""

from typing import Any

import pytest
from transformers import ConvNextConfig, SwinConfig, ViTConfig

from hf_vbp.errors import CheckpointError, ConfigurationError
from hf_vbp.modeling.config_record import read_widths, write_widths
from tests.conftest import TINY

DENSE = [48, 48, 48]


def make_config() -> Any:
    return ViTConfig(**TINY)


def test_different_widths_are_written_twice() -> None:
    config = make_config()
    write_widths(config, [10, 48, 0], dense_widths=DENSE, extra={"criterion": "variance", "widths": "not these"})
    saved = config.to_diff_dict()
    assert saved["vbp"] == {"version": 2, "widths": [10, 48, 0], "dense_widths": DENSE, "criterion": "variance"}
    assert saved["per_layer_config"] == {"0": {"intermediate_size": 10}, "2": {"intermediate_size": 0}}
    assert saved["intermediate_size"] == 48
    assert read_widths(config) == [10, 48, 0]


def test_equal_widths_are_only_intermediate_size() -> None:
    config = make_config()
    write_widths(config, [20, 20, 20], dense_widths=DENSE, extra={"criterion": "variance"})
    saved = config.to_diff_dict()
    assert saved["intermediate_size"] == 20
    assert not {"vbp", "per_layer_config", "auto_map"} & saved.keys()
    assert read_widths(config) is None


def test_records_are_replaced() -> None:
    config = make_config()
    config.auto_map = {"AutoModel": "modeling_hf_vbp.ViTModel", "AutoConfig": "own.Config"}
    write_widths(config, [10, 20, 30], dense_widths=DENSE)
    assert config.auto_map == {"AutoConfig": "own.Config"}
    write_widths(config, [5, 20, 30], dense_widths=DENSE)
    assert [layer.intermediate_size for layer in config.per_layer_config] == [5, 20, 30]
    write_widths(config, [5, 5, 5], dense_widths=DENSE)
    assert (config.intermediate_size, config.is_heterogeneous, hasattr(config, "vbp")) == (5, False, False)
    write_widths(config, [1, 2, 3], dense_widths=DENSE)
    assert [layer.intermediate_size for layer in config.per_layer_config] == [1, 2, 3]


@pytest.mark.parametrize("config_class", [SwinConfig, ConvNextConfig])
@pytest.mark.parametrize("widths", [[8, 16, 24], [8, 8, 8]])
def test_families_without_intermediate_size(config_class: Any, widths: list[int]) -> None:
    # Three stages, so `num_hidden_layers` is an alias that is 3 too.
    config = config_class(depths=[1, 1, 1])
    write_widths(config, widths, dense_widths=DENSE)
    saved = config.to_diff_dict()
    assert saved["vbp"]["widths"] == widths
    assert not {"per_layer_config", "intermediate_size"} & saved.keys()


@pytest.mark.parametrize(
    ("widths", "dense_widths"), [([], []), ([1, 2], [3]), ([1, -2, 3], DENSE), ([1, 2, 3], [1, 2, -3])]
)
def test_nonsense_is_refused(widths: list[int], dense_widths: list[int]) -> None:
    config = make_config()
    with pytest.raises(ConfigurationError, match="one whole number for each MLP"):
        write_widths(config, widths, dense_widths=dense_widths)
    assert config.to_diff_dict() == make_config().to_diff_dict()


def test_damaged_record_is_a_checkpoint_error() -> None:
    config = make_config()
    config.vbp = {"version": 4, "widths": [1]}
    with pytest.raises(CheckpointError, match="upgrade hf_vbp"):
        read_widths(config)

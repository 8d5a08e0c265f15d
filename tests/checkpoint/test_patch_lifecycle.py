"""The wrappers in transformers: whole or not at all, never stacked, by name, and safe for threads."""

import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    AutoModelForImageClassification,
    PreTrainedConfig,
    PreTrainedModel,
    SwinConfig,
    SwinForImageClassification,
    ViTForImageClassification,
)

import hf_vbp
from hf_vbp.checkpoint import transformers_patch
from hf_vbp.errors import CheckpointError
from hf_vbp.modeling.config_record import write_widths
from hf_vbp.modeling.modeling_hf_vbp import resize
from tests.checkpoint.helpers import WIDTHS, assert_same_outputs, make_pruned, widths_of
from tests.conftest import make_model

ROOT = Path(__file__).parents[2]
PLACES = [
    (PreTrainedModel, "__init__"),
    (PreTrainedModel, "post_init"),
    (PreTrainedModel, "_finalize_model_loading"),
    (PreTrainedConfig, "save_pretrained"),
]


def functions() -> list[Any]:
    return [owner.__dict__.get(name) for owner, name in PLACES]


def parameter_renamed(model: Any, load_config: Any, info: Any) -> Any:
    return ORIGINAL(model, load_config, info)


def save_pretrained(self: Any, save_directory: Any, **options: Any) -> None:
    SAVE(self, save_directory, **options)


@pytest.fixture(params=["a renamed parameter", "a function that moved to a base class"])
def _changed_upstream(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A transformers that hf_vbp does not know, in which other models still work."""
    global ORIGINAL, SAVE
    hf_vbp.unpatch_transformers()
    ORIGINAL, SAVE = PreTrainedModel._finalize_model_loading, PreTrainedConfig.save_pretrained
    with monkeypatch.context() as patch:
        patch.setattr(transformers_patch._state, "warned", False)
        if request.param == "a renamed parameter":
            patch.setattr(PreTrainedModel, "_finalize_model_loading", staticmethod(parameter_renamed))
        else:
            patch.delattr(PreTrainedConfig, "save_pretrained")
            patch.setattr(PreTrainedConfig.__mro__[1], "save_pretrained", save_pretrained, raising=False)
        yield
    hf_vbp.unpatch_transformers()


@pytest.mark.usefixtures("_changed_upstream")
def test_a_changed_upstream_is_not_wrapped_and_other_models_work(tmp_path: Path) -> None:
    before = functions()
    with pytest.warns(UserWarning, match="does not support transformers .*Other models are not affected") as caught:
        hf_vbp.patch_transformers()
    assert len(caught) == 1
    hf_vbp.patch_transformers()
    assert functions() == before
    dense = make_model()
    dense.save_pretrained(tmp_path)
    assert_same_outputs(AutoModelForImageClassification.from_pretrained(tmp_path), dense)
    assert_same_outputs(hf_vbp.from_pretrained(tmp_path), dense)


@pytest.mark.usefixtures("_changed_upstream")
def test_a_changed_upstream_refuses_pruned_checkpoints(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.warns(UserWarning, match="does not support transformers"):
        hf_vbp.patch_transformers()
    make_pruned().save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="per-layer attribute"):
        AutoModelForImageClassification.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="Note that this hf_vbp does not support transformers"):
        hf_vbp.from_pretrained(tmp_path)
    # A family whose config has no intermediate_size, so that transformers itself does not notice.
    swin = SwinForImageClassification(
        SwinConfig(embed_dim=16, depths=[1, 1], num_heads=[2, 2], image_size=32, patch_size=4, window_size=4)
    )
    assert resize(swin, [10, 20])
    write_widths(swin.config, [10, 20], dense_widths=[64, 128])
    folder = tmp_path_factory.mktemp("swin")
    swin.save_pretrained(folder)
    for options in ({}, {"ignore_mismatched_sizes": True}):
        with pytest.raises(CheckpointError):
            hf_vbp.from_pretrained(folder, **options)


def test_arguments_are_bound_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Upstream adds a parameter at the end, and passes all by keyword."""
    model = make_pruned()
    state = {name: value for name, value in model.state_dict().items() if "layers.2.mlp.fc1.weight" not in name}
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "lacking", state_dict=state)
    hf_vbp.unpatch_transformers()
    original = PreTrainedModel._finalize_model_loading

    def with_more(model: Any, load_config: Any, loading_info: Any, more: Any = None) -> Any:
        assert more == "more"
        return original(model, load_config, loading_info)

    monkeypatch.setattr(PreTrainedModel, "_finalize_model_loading", staticmethod(with_more))
    hf_vbp.patch_transformers()
    wrapped = PreTrainedModel._finalize_model_loading

    def call(model: Any, load_config: Any, loading_info: Any) -> Any:
        return wrapped(more="more", loading_info=loading_info, load_config=load_config, model=model)

    monkeypatch.setattr(PreTrainedModel, "_finalize_model_loading", staticmethod(call))
    assert_same_outputs(AutoModelForImageClassification.from_pretrained(tmp_path / "whole"), model)
    with pytest.raises(CheckpointError, match=r"MLP 2.*are missing"):
        AutoModelForImageClassification.from_pretrained(tmp_path / "lacking")
    hf_vbp.unpatch_transformers()


def test_wrong_arguments_raise_the_error_of_transformers() -> None:
    with pytest.raises(TypeError, match="config"):
        ViTForImageClassification()


IMPORTS = """
import importlib, sys
from pathlib import Path
from transformers import AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel

places = [
    (PreTrainedModel, "__init__"),
    (PreTrainedModel, "post_init"),
    (PreTrainedModel, "_finalize_model_loading"),
    (PreTrainedConfig, "save_pretrained"),
]
originals = [owner.__dict__[name] for owner, name in places]


def check():
    for (owner, name), original in zip(places, originals):
        function = owner.__dict__[name]
        wrapped = getattr(function, "__func__", function).__wrapped__
        assert wrapped is getattr(original, "__func__", original), f"{name} is wrapped more than once"
    model = AutoModelForImageClassification.from_pretrained(sys.argv[1])
    assert [layer.mlp.fc1.out_features for layer in model.vit.layers] == [11, 0, 37]
    assert [layer.mlp.fc1.out_features for layer in hf_vbp.from_pretrained(sys.argv[1]).vit.layers] == [11, 0, 37]
    try:
        AutoModelForImageClassification.from_pretrained(sys.argv[2])
    except hf_vbp.HfVbpError as error:
        assert "config.vbp has version 9" in str(error)
    else:
        raise SystemExit("a record of a newer version was loaded")
    model.save_pretrained(sys.argv[3])
    assert (Path(sys.argv[3]) / "modeling_hf_vbp.py").is_file()


import hf_vbp
check()
for _ in range(2):
    importlib.reload(hf_vbp)
    check()
    importlib.reload(sys.modules["hf_vbp.checkpoint.transformers_patch"])
    check()
for _ in range(2):
    for name in [name for name in sys.modules if name.partition(".")[0] == "hf_vbp"]:
        del sys.modules[name]
    import hf_vbp
    check()
hf_vbp.unpatch_transformers()
assert [owner.__dict__[name] for owner, name in places] == originals
"""


def test_reload_and_another_import_do_not_stack(tmp_path: Path) -> None:
    make_pruned().save_pretrained(tmp_path / "pruned")
    newer = make_pruned()
    newer.config.vbp = {**newer.config.vbp, "version": 9}
    hf_vbp.unpatch_transformers()
    newer.save_pretrained(tmp_path / "newer")
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORTS, *(tmp_path / name for name in ("pruned", "newer", "saved"))],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.fixture
def _frequent_switches() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("_frequent_switches")
@pytest.mark.parametrize("way", ["native", "remote class", "unpatched remote class"])
def test_threads_build_models_from_one_config(way: str) -> None:
    from hf_vbp.modeling import modeling_hf_vbp

    model_class = ViTForImageClassification if way == "native" else modeling_hf_vbp.ViTForImageClassification
    if way == "unpatched remote class":
        hf_vbp.unpatch_transformers()
    config = make_pruned().config
    before = config.to_json_string()
    barrier, results = threading.Barrier(6), []

    def build() -> None:
        barrier.wait()
        try:
            results.append(widths_of(model_class(config)))
        except (RuntimeError, ValueError, CheckpointError) as error:
            results.append(error)

    for _ in range(4):
        threads = [threading.Thread(target=build) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == [WIDTHS] * 24
    with pytest.raises(RuntimeError, match="per-layer"):
        _ = config.intermediate_size
    assert config.to_json_string() == before


def test_no_warning_where_everything_is_known() -> None:
    hf_vbp.unpatch_transformers()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hf_vbp.patch_transformers()

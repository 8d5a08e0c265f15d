"""Merging in the models of transformers: exactness, shapes, and no state that leaks."""

import copy
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn

import hf_vbp
from hf_vbp.modeling.modeling_hf_vbp import find_tower, merged_tokens

from .models import CLASSES, inputs_of, make, result

COUNTS = [0, 5, 3]


def hooks(model: nn.Module) -> dict[str, Any]:
    """All hooks of a model, and the tables that describe them."""
    names = [name for name in vars(model) if "hooks" in name]
    return {
        f"{path}.{name}": dict(vars(module)[name])
        for path, module in model.named_modules()
        for name in names
        if isinstance(vars(module).get(name), dict)
    }


def tokens_in_blocks(model: Any, inputs: dict[str, torch.Tensor]) -> list[int]:
    """The number of tokens that the MLP of each block computes."""
    seen: list[int] = []
    tower: Any = find_tower(model)
    handles = [
        block.mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1])) for block in tower.blocks
    ]
    result(model, inputs)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_merges_and_keeps_its_leading_tokens(name: str) -> None:
    model, leading = make(name), CLASSES[name][2]
    inputs = inputs_of(model)
    dense = result(model, inputs)
    assert find_tower(model).leading == leading  # type: ignore[union-attr]
    hf_vbp.merge_tokens(model, COUNTS)
    tokens = 16 + leading
    assert tokens_in_blocks(model, inputs) == [tokens, tokens - 5, tokens - 8]
    merged = result(model, inputs)
    assert merged.shape == dense.shape
    assert torch.isfinite(merged).all()
    assert not torch.allclose(merged, dense, atol=1e-4)
    # Half of the tokens at most are merged at once.
    hf_vbp.merge_tokens(model, 1000)
    assert tokens_in_blocks(model, inputs) == [tokens, leading + 8, leading + 4]


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize(("colors", "counts"), [(1, [0, 6, 4]), (2, [0, 7, 0])])
def test_merging_equal_tokens_changes_nothing(name: str, colors: int, counts: list[int]) -> None:
    model = make(name)
    tower: Any = find_tower(model)
    inputs = inputs_of(model)
    # Vertical stripes of two patches: without positions there are as many kinds of tokens as colors.
    stripes = torch.randn(3, 3, 1, colors, generator=torch.Generator().manual_seed(5))
    inputs["pixel_values"] = stripes.repeat_interleave(32 // colors, dim=3).expand(-1, -1, 32, -1).contiguous()
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if "position_embedding" in path and "text" not in path:
                parameter.zero_()
    dense = result(model, inputs)
    hf_vbp.merge_tokens(model, counts)
    assert tokens_in_blocks(model, inputs)[-1] == 16 + tower.leading - sum(counts)
    torch.testing.assert_close(result(model, inputs), dense, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_zero_turns_merging_off_without_a_trace(name: str, attention: str) -> None:
    model = make(name)
    model.set_attn_implementation(attention)
    inputs = inputs_of(model)
    before = hooks(model), model.config.to_dict(), vars(find_tower(model).config).copy()  # type: ignore[union-attr]
    dense = result(model, inputs)
    for r in (4, COUNTS, 0):
        hf_vbp.merge_tokens(model, r)
        assert model.config._attn_implementation == attention
    after = hooks(model), model.config.to_dict(), vars(find_tower(model).config).copy()  # type: ignore[union-attr]
    assert after == before
    assert torch.equal(result(model, inputs), dense)
    assert merged_tokens(model) == ()


@pytest.mark.parametrize("name", ["ViTForImageClassification", "CLIPModel", "SiglipVisionModel"])
def test_both_implementations_of_attention_agree(name: str) -> None:
    model = make(name)
    inputs = inputs_of(model)
    hf_vbp.merge_tokens(model, COUNTS)
    model.set_attn_implementation("sdpa")
    sdpa = result(model, inputs)
    model.set_attn_implementation("eager")
    torch.testing.assert_close(result(model, inputs), sdpa, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CLASSES)
def test_shapes_of_hidden_states_and_attentions(name: str) -> None:
    model, leading = make(name), CLASSES[name][2]
    model.set_attn_implementation("eager")
    hf_vbp.merge_tokens(model, COUNTS)
    with torch.no_grad():
        output = model(**inputs_of(model), output_hidden_states=True, output_attentions=True)
    output = output.get("vision_model_output", output)
    tokens = 16 + leading
    after = [tokens, tokens - 5, tokens - 8]
    assert [state.shape[1] for state in output.hidden_states[:-1]] == [tokens, *after[:-1]]
    assert output.hidden_states[-1].shape[1] == after[-1]
    assert [tuple(attention.shape[2:]) for attention in output.attentions] == [(count, count) for count in after]
    # An output that holds all tokens has them all.
    if "last_hidden_state" in output:
        assert output.last_hidden_state.shape[1] == tokens


def test_repeated_tokens_are_those_that_were_merged() -> None:
    model: Any = make("CLIPVisionModel")
    inputs = inputs_of(model)
    hf_vbp.merge_tokens(model, [0, 8, 4])
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True)
    for repeated, merged in zip(output.last_hidden_state, output.hidden_states[-1], strict=True):
        assert {tuple(token) for token in repeated.tolist()} == {tuple(token) for token in merged.tolist()}
        assert len(merged) == 5


def test_images_of_another_size_and_batch_are_merged() -> None:
    model = make("ViTForImageClassification")
    hf_vbp.merge_tokens(model, COUNTS)
    small, large = inputs_of(model), inputs_of(model, images=1, size=64)
    first = result(model, small)
    assert result(model, large, interpolate_pos_encoding=True).shape == (1, 5)
    assert torch.equal(result(model, small), first)
    # An image is merged by itself: the others of its batch do not matter.
    alone = result(model, {"pixel_values": small["pixel_values"][1:2]})
    torch.testing.assert_close(alone, first[1:2], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_masked_tokens_have_no_influence(attention: str) -> None:
    model: Any = make("ViTForImageClassification")
    model.set_attn_implementation(attention)
    hf_vbp.merge_tokens(model, [0, 3, 3])
    mask = torch.ones(2, 17, dtype=torch.long)
    mask[0, [3, 4, 11]] = mask[1, 16] = 0
    inputs = inputs_of(model, images=2)
    expected = result(model, inputs, attention_mask=mask)
    changed = inputs["pixel_values"].unfold(2, 8, 8).unfold(3, 8, 8).clone()  # images, channels, rows, columns, 8, 8
    flat = changed.flatten(2, 3)
    flat[0, :, [2, 3, 10]] += 3
    flat[1, :, 15] -= 5
    blocks = flat.unflatten(2, (4, 4)).permute(0, 1, 2, 4, 3, 5).reshape(2, 3, 32, 32)
    assert not torch.equal(blocks, inputs["pixel_values"])
    torch.testing.assert_close(
        result(model, {"pixel_values": blocks}, attention_mask=mask), expected, atol=1e-5, rtol=1e-5
    )
    assert not torch.allclose(result(model, inputs), expected, atol=1e-4)


def test_mask_that_differs_between_queries_is_refused() -> None:
    model = make("ViTForImageClassification")
    hf_vbp.merge_tokens(model, COUNTS)
    causal = torch.ones(3, 1, 17, 17, dtype=torch.bool).tril()
    with pytest.raises(ValueError, match="differs between heads or queries"):
        result(model, inputs_of(model), attention_mask=causal)


def test_other_attention_that_is_set_later_is_refused() -> None:
    model = make("ViTForImageClassification")
    hf_vbp.merge_tokens(model, COUNTS)
    model.config._attn_implementation = "paged|eager"
    with pytest.raises(ValueError, match=r"'paged\|eager'"):
        result(model, inputs_of(model))


def test_replaced_key_projection_is_an_error() -> None:
    model: Any = make("ViTForImageClassification")
    hf_vbp.merge_tokens(model, COUNTS)
    model.vit.layers[0].attention.k_proj = nn.Linear(32, 32)
    with pytest.raises(RuntimeError, match="replaced"):
        result(model, inputs_of(model))


def test_threads_do_not_disturb_each_other() -> None:
    models = [make("ViTForImageClassification", seed=seed) for seed in (0, 1)]
    hf_vbp.merge_tokens(models[0], COUNTS)
    hf_vbp.merge_tokens(models[1], [0, 0, 6])
    batches = [inputs_of(models[0], images=seed % 3 + 1, seed=seed) for seed in range(24)]
    expected = [[result(model, batch) for batch in batches] for model in models]
    barrier = threading.Barrier(4)

    def run(worker: int) -> list[torch.Tensor]:
        barrier.wait()
        return [result(models[worker % 2], batch) for batch in batches]

    with ThreadPoolExecutor(4) as pool:
        for worker, outputs in enumerate(pool.map(run, range(4))):
            assert all(map(torch.equal, outputs, expected[worker % 2]))


def test_pass_inside_a_pass_and_failed_passes_leave_no_state() -> None:
    model: Any = make("ViTForImageClassification")
    hf_vbp.merge_tokens(model, COUNTS)
    inputs, other = inputs_of(model), inputs_of(model, images=1, seed=9)
    expected, inner = result(model, inputs), result(model, other)
    found = []

    def nested(*_: Any) -> None:
        handle.remove()
        found.append(result(model, other))

    handle = model.vit.layers[1].mlp.register_forward_hook(nested)
    assert torch.equal(result(model, inputs), expected)
    assert torch.equal(found[0], inner)

    def fail(*_: Any) -> None:
        raise KeyError("stop")

    handle = model.vit.layers[1].mlp.register_forward_hook(fail)
    with pytest.raises(KeyError):
        result(model, inputs)
    handle.remove()
    merging = next(iter(model.vit._forward_pre_hooks.values())).merging
    assert merging._passes() == ()
    # A block that is called alone does not merge.
    tokens = torch.randn(1, 17, 32)
    assert model.vit.layers[2](tokens).shape == tokens.shape
    assert torch.equal(result(model, inputs), expected)


@pytest.mark.parametrize("name", ["ViTForImageClassification", "Dinov2ForImageClassification", "SiglipModel"])
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
def test_gradient_checkpointing_gives_the_same_gradients(name: str, reentrant: bool) -> None:
    model = make(name).train()
    hf_vbp.merge_tokens(model, COUNTS)
    inputs = inputs_of(model)

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        output = model(**inputs)
        output["logits" if "logits" in output else "logits_per_image"].square().sum().backward()
        return {path: p.grad.clone() for path, p in model.named_parameters() if p.grad is not None}

    expected = gradients()
    assert any("k_proj" in path for path in expected)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    # Reentrant checkpointing needs an input with a gradient.
    model.enable_input_require_grads() if reentrant and name == "ViTForImageClassification" else None
    found = gradients()
    assert found.keys() == expected.keys()
    for path, gradient in expected.items():
        torch.testing.assert_close(found[path], gradient, atol=1e-6, rtol=1e-5)


def test_autocast_and_low_precision_match_the_same_tokens() -> None:
    model = make("ViTForImageClassification")
    inputs = inputs_of(model)
    hf_vbp.merge_tokens(model, COUNTS)
    full = result(model, inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = result(model, inputs)
    assert low.dtype == torch.bfloat16
    assert (low - full).abs().max() < 0.2 * full.abs().max()
    half = copy.deepcopy(model).to(torch.bfloat16)
    assert result(half, {"pixel_values": inputs["pixel_values"].bfloat16()}).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "name",
    [
        "ViTForImageClassification",
        pytest.param("Dinov2ForImageClassification", marks=pytest.mark.slow),
        pytest.param("CLIPVisionModel", marks=pytest.mark.slow),
    ],
)
def test_compiled_model_is_the_same(name: str) -> None:
    torch.compiler.reset()
    model = make(name)
    inputs = inputs_of(model)
    hf_vbp.merge_tokens(model, COUNTS)
    expected = result(model, inputs)
    compiled: Any = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(result(compiled, inputs), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(result(compiled, inputs_of(model, images=2)), expected[:2], atol=2, rtol=2)
    # In training too.
    model.train()
    compiled(**inputs)[0].sum().backward()
    model.eval()
    assert torch.equal(result(model, inputs), expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_compiled_by_inductor() -> None:
    torch.compiler.reset()
    model: Any = make("ViTForImageClassification")
    inputs = inputs_of(model)
    hf_vbp.merge_tokens(model, COUNTS)
    expected = result(model, inputs)
    torch.testing.assert_close(result(torch.compile(model, fullgraph=True), inputs), expected, atol=1e-5, rtol=1e-5)


def test_compiled_block_by_block() -> None:
    torch.compiler.reset()
    model: Any = make("ViTForImageClassification")
    inputs = inputs_of(model)
    hf_vbp.merge_tokens(model, COUNTS)
    expected = result(model, inputs)
    for block in model.vit.layers:
        block.compile(fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(result(model, inputs), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["ViTForImageClassification", "IJepaForImageClassification", "SiglipVisionModel"])
@pytest.mark.parametrize("strict", [False, True])
# Of the output recording of transformers too.
@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects:UserWarning")
def test_exported_program_is_the_same(name: str, strict: bool) -> None:
    model = make(name)
    inputs = inputs_of(model)
    hf_vbp.merge_tokens(model, COUNTS)
    expected = result(model, inputs)
    batch = torch.export.Dim("images", min=2, max=64)
    program = torch.export.export(
        model, (), inputs, dynamic_shapes={"pixel_values": {0: batch}} if not strict else None, strict=strict
    )
    torch.testing.assert_close(result(program.module(), inputs), expected, atol=1e-5, rtol=1e-5)
    if not strict:
        more = inputs_of(model, images=7, seed=3)
        torch.testing.assert_close(result(program.module(), more), result(model, more), atol=1e-5, rtol=1e-5)


def test_onnx_program_is_the_same(tmp_path: Any) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    from hf_vbp.export.conversion import convert, save
    from hf_vbp.export.formats import FORMATS

    model = make("ViTForImageClassification")
    inputs = inputs_of(model)
    hf_vbp.merge_tokens(model, COUNTS)
    path = tmp_path / "model.onnx"
    save(convert(model, inputs, FORMATS["onnx"]), FORMATS["onnx"], path, "fp32")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    more = inputs_of(model, images=7, seed=3)
    for given in (inputs, more):
        (logits,) = session.run(None, {"pixel_values": given["pixel_values"].numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), result(model, given), atol=1e-4, rtol=1e-4)


def test_copies_have_their_own_merging() -> None:
    model = make("ViTForImageClassification")
    inputs = inputs_of(model)
    dense = result(model, inputs)
    hf_vbp.merge_tokens(model, COUNTS)
    merged = result(model, inputs)
    copied = copy.deepcopy(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    pickled = torch.load(file, weights_only=False)
    hf_vbp.merge_tokens(model, 0)
    assert torch.equal(result(model, inputs), dense)
    for other in (copied, pickled):
        assert torch.equal(result(other, inputs), merged)
        assert other.config.vbp["merged_tokens"] == COUNTS
        hf_vbp.merge_tokens(other, 0)
        assert torch.equal(result(other, inputs), dense)


def test_data_parallel_replicas_merge() -> None:
    model = make("ViTForImageClassification")
    inputs = inputs_of(model)
    hf_vbp.merge_tokens(model, COUNTS)
    replica: Any = model._replicate_for_data_parallel()
    assert replica is not model
    assert len(replica._forward_hooks) == len(model._forward_hooks)
    assert torch.equal(result(nn.DataParallel(model), inputs), result(model, inputs))

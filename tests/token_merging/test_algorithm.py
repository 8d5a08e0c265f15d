"""Matching and averaging, against a slow reference in plain Python, on random and on adversarial inputs."""

from typing import Any

import pytest
import torch

import hf_vbp
from hf_vbp.modeling.modeling_hf_vbp import average_tokens, match_tokens
from tests.conftest import make_model

from . import reference


def grouped(position: torch.Tensor) -> list[list[int]]:
    """The tokens at each new position of one image, sorted."""
    count = int(position.max()) + 1
    return [sorted(torch.nonzero(position == new).flatten().tolist()) for new in range(count)]


def expected(keys: torch.Tensor, r: int, leading: int) -> list[list[int]]:
    return [sorted(group) for group in reference.groups(keys.double().tolist(), r, leading)]


@pytest.mark.parametrize("tokens", [2, 3, 8, 9, 21])
@pytest.mark.parametrize("leading", [0, 1, 2, 5])
@pytest.mark.parametrize("share", [0, 0.3, 1])
def test_matching_is_that_of_the_reference(tokens: int, leading: int, share: float) -> None:
    keys = torch.randn(4, tokens + leading, 6, generator=torch.Generator().manual_seed(tokens))
    r = round(share * (tokens // 2))
    position = match_tokens(keys, r, leading)
    assert position.dtype == torch.int64
    for image, found in zip(keys, position, strict=True):
        assert grouped(found) == expected(image, r, leading)


@pytest.mark.parametrize("leading", [0, 1])
@pytest.mark.parametrize(
    "rows",
    [
        [0] * 12,  # all equal
        [0, 1] * 6,  # every token of A equals every other one of A
        [0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2],  # odd count, several equal partners
        [0, 1, 1, 0, 2, 2, 2, 2, 1, 0, 0, 1],
    ],
)
@pytest.mark.parametrize("r", [1, 3, 5])
def test_ties_are_broken_by_the_order_of_the_tokens(rows: list[int], leading: int, r: int) -> None:
    # Similarities of unit vectors are exactly 0 or 1, in float32 and float64.
    keys = torch.eye(4)[torch.tensor([3] * leading + rows)]
    position = match_tokens(keys[None].expand(3, -1, -1), r, leading)
    assert torch.equal(position, position[:1].expand(3, -1))
    assert grouped(position[0]) == expected(keys, r, leading)


def test_keys_of_zero_and_of_any_scale_are_matched() -> None:
    keys = torch.randn(2, 11, 4, generator=torch.Generator().manual_seed(0))
    keys[:, 3] = 0
    scaled = keys * torch.logspace(-6, 6, 11)[:, None]
    assert torch.equal(match_tokens(keys, 4, 1), match_tokens(scaled, 4, 1))
    assert grouped(match_tokens(keys, 4, 1)[0]) == expected(keys[0], 4, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_average_is_that_of_the_reference_and_keeps_sum_and_size(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randn(2, 13, 5, generator=generator).to(dtype)
    sizes = torch.randint(1, 9, (2, 13), generator=generator).float()
    position = match_tokens(torch.randn(2, 13, 4, generator=generator), 5, 1)
    merged, new_sizes = average_tokens(tokens, sizes, position, 8)
    assert merged.dtype == dtype
    assert torch.equal(new_sizes.sum(1), sizes.sum(1))
    precision = 4 * torch.finfo(dtype).eps
    for image in range(2):
        wanted, wanted_sizes = reference.merge(
            tokens[image].double().tolist(), sizes[image].tolist(), grouped(position[image])
        )
        torch.testing.assert_close(merged[image].double(), torch.tensor(wanted).double(), atol=precision, rtol=0.0)
        assert new_sizes[image].tolist() == wanted_sizes
    before = (tokens.double() * sizes[..., None]).sum(1)
    after = (merged.double() * new_sizes[..., None]).sum(1)
    torch.testing.assert_close(after, before, atol=100 * precision, rtol=0.0)
    # A token that was not merged is the same, bit for bit.
    assert torch.equal(merged[:, 0], tokens[:, 0])


def test_gradients_reach_every_token_by_its_weight() -> None:
    tokens = torch.randn(1, 6, 2, dtype=torch.float64, requires_grad=True)
    sizes, position = torch.tensor([[1.0, 2, 3, 4, 5, 6]]), torch.tensor([[0, 1, 1, 2, 1, 2]])
    assert torch.autograd.gradcheck(lambda x: average_tokens(x, sizes, position, 3)[0], tokens)


def test_masked_tokens_are_merged_first_and_nothing_is_merged_into_them() -> None:
    keys = torch.randn(1, 13, 4, generator=torch.Generator().manual_seed(2))
    masked = [4, 5, 10]  # 4 and 10 are of A, 5 is of B
    sizes = torch.ones(1, 13)
    sizes[0, masked] = 1e-30
    found = grouped(match_tokens(keys, 4, 1, sizes)[0])
    assert [5] in found
    assert all(len(group) > 1 for group in found if 4 in group or 10 in group)


@pytest.mark.parametrize("counts", [[0, 5, 0], [0, 3, 4], [0, 50, 1], [0, 0, 0]])
def test_model_is_that_of_the_reference(counts: list[int]) -> None:
    model: Any = make_model("vit").double()
    pixels = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        embedded = model.vit.embeddings(pixels)
        hf_vbp.merge_tokens(model, counts)
        logits = model(pixel_values=pixels).logits
    for image, found in zip(embedded, logits, strict=True):
        wanted, sizes = reference.vit_logits(model, image.tolist(), counts)
        assert sum(sizes) == 17
        # Sizes, and so their logarithms, are float32.
        torch.testing.assert_close(found, torch.tensor(wanted).double(), atol=1e-6, rtol=0.0)

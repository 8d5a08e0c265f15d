"""Cotangents and distances against the second derivatives that autograd computes in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from hf_vbp.errors import ConfigurationError, DataError, NonFiniteError
from hf_vbp.output_distance import (
    Binary,
    Categorical,
    Cosine,
    Formula,
    ImageNoise,
    NeighborBank,
    Neighbors,
    OutputKind,
    SquaredError,
    VarianceShare,
)

DRAWS = 20_000


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


BANK = NeighborBank(normal(7, 4, seed=5))
LEFT_OUT = NeighborBank(normal(7, 4, seed=5), (3, 0, 1, 9, 8, 7, 6))

# The output of one image, and which of its positions count.
CASES: dict[str, tuple[Formula, Tensor, Tensor | None]] = {
    "classes": (Categorical(), 2 * normal(1, 5), None),
    "queries": (Categorical(), normal(1, 3, 4), None),
    "pixel classes": (Categorical(component_dim=1), normal(1, 3, 2, 2), None),
    "masked tokens": (Categorical(), normal(1, 4, 3), torch.tensor([[True, False, True, True]])),
    "labels": (Binary(), 2 * normal(1, 4), None),
    "labels of queries": (Binary(), normal(1, 3, 2), torch.tensor([[True, True, False]])),
    "masks": (Binary(component_dim=None), normal(1, 2, 2, 2), torch.tensor([[True, False]])),
    "regression": (SquaredError(), normal(1, 3), None),
    "boxes": (SquaredError(), normal(1, 2, 4), None),
    "heat maps": (SquaredError(component_dim=None), normal(1, 2, 2, 2), None),
    "depth": (VarianceShare(), 3 + 2 * normal(1, 3, 3), None),
    "masked depth": (VarianceShare(), normal(1, 2, 3), torch.tensor([[[True, True, False], [True, False, True]]])),
    "tokens": (VarianceShare(component_dim=-1), normal(1, 3, 3), torch.tensor([[True, False, True]])),
    "embeddings": (Cosine(), 3 * normal(1, 4), None),
    "token embeddings": (Cosine(), normal(1, 2, 3), None),
    "features": (Neighbors(BANK, temperature=0.5), 2 * normal(1, 4), None),
    "features, usual temperature": (Neighbors(BANK), 2 * normal(1, 4), None),
    "features without the image": (Neighbors(LEFT_OUT, temperature=0.5), 2 * normal(1, 4), None),
}
IMAGE = 3


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> tuple[Formula, Tensor, Tensor | None]:
    return CASES[request.param]


def hessian_at_equality(formula: Formula, output: Tensor, mask: Tensor | None, images: list[int]) -> Tensor:
    def distance(pruned: Tensor) -> Tensor:
        return formula.distance(output, pruned.view_as(output), mask, images)["distance"].sum()

    return torch.autograd.functional.hessian(distance, output.flatten())


def test_second_moment_of_the_cotangents_is_the_hessian(case: tuple[Formula, Tensor, Tensor | None]) -> None:
    formula, output, mask = case
    # Draws of one image: the image that the bank may contain, so `draw` varies and not the number.
    draws = [formula.cotangent(output, ImageNoise(11, [IMAGE], draw), mask).flatten() for draw in range(500)]
    images = range(100_000, 100_000 + DRAWS)
    everyone = output.expand(DRAWS, *output.shape[1:])
    masks = None if mask is None else mask.expand(DRAWS, *mask.shape[1:])
    batches = formula.cotangent(everyone, ImageNoise(11, images), masks).flatten(1)
    for v, numbers in ((torch.stack(draws), [IMAGE]), (batches, [100_000])):
        expected = hessian_at_equality(formula, output, mask, numbers)
        found = v.T @ v / len(v)
        # The variance of a product of two jointly normal numbers.
        scale = expected.diagonal()
        error = ((scale[:, None] * scale + expected.square()) / len(v)).sqrt()
        assert expected.abs().max() > 1e-4
        assert ((found - expected).abs() <= 5.5 * error + 1e-9 * expected.abs().max()).all()
        relative = (found - expected).norm() / expected.norm()
        assert relative < 3 * error.norm() / expected.norm()


def test_distance_is_zero_at_equality(case: tuple[Formula, Tensor, Tensor | None]) -> None:
    formula, output, mask = case
    figures = formula.distance(output, output.clone(), mask, [IMAGE])
    assert float(figures["distance"]) == 0
    for name, value in figures.items():
        assert value.shape == (1,)
        assert value.dtype == torch.float64
        assert float(value) == (1 if "agreement" in name else 0)


@pytest.mark.parametrize("size", [1e-9, 1e-3, 0.3, 30.0])
def test_distance_is_not_negative(case: tuple[Formula, Tensor, Tensor | None], size: float) -> None:
    formula, output, mask = case
    for seed in range(20):
        moved = output + size * normal(*output.shape, seed=100 + seed)
        figures = formula.distance(output, moved, mask, [IMAGE])
        assert all(float(value) >= 0 for value in figures.values())
        assert size < 1e-3 or float(figures["distance"]) > 0


def test_distance_of_a_small_change_is_its_quadratic_form(case: tuple[Formula, Tensor, Tensor | None]) -> None:
    formula, output, mask = case
    hessian = hessian_at_equality(formula, output, mask, [IMAGE])
    change = 1e-4 * normal(*output.shape, seed=9)
    expected = change.flatten() @ hessian @ change.flatten() / 2
    found = formula.distance(output, output + change, mask, [IMAGE])["distance"]
    assert float(found) == pytest.approx(float(expected), rel=1e-2)


@pytest.mark.parametrize("name", [name for name, (_, _, mask) in CASES.items() if mask is not None])
def test_what_is_masked_does_not_count(name: str) -> None:
    formula, output, mask = CASES[name]
    assert mask is not None
    shape = [size for dim, size in enumerate(output.shape) if formula.component_dim is None or dim != output.dim() - 1]
    counted = mask.reshape(*mask.shape, *[1] * (len(shape) - mask.dim())).expand(shape)
    full = counted if formula.component_dim is None else counted[..., None].expand_as(output)
    damaged = torch.where(full, output, torch.nan)
    moved = output + normal(*output.shape, seed=2)
    noise = ImageNoise(0, [IMAGE])
    v = formula.cotangent(damaged, noise, mask)
    assert (v[~full] == 0).all()
    assert (v[full] != 0).all()
    assert v.equal(formula.cotangent(output, noise, mask))
    found = formula.distance(damaged, torch.where(full, moved, torch.inf), mask)
    assert found["distance"].equal(formula.distance(output, moved, mask)["distance"])


def test_the_cotangent_of_an_image_does_not_depend_on_the_batch(case: tuple[Formula, Tensor, Tensor | None]) -> None:
    formula, output, mask = case
    outputs = torch.cat([output, output + 1, -output])
    masks = None if mask is None else torch.cat([mask] * 3)
    together = formula.cotangent(outputs, ImageNoise(4, [7, 2, 5]), masks)
    for row, image in ((2, 5), (0, 7), (1, 2)):
        alone = formula.cotangent(
            outputs[row : row + 1], ImageNoise(4, [image]), None if masks is None else masks[row : row + 1]
        )
        torch.testing.assert_close(alone[0], together[row], rtol=1e-12, atol=1e-14)
    other = formula.cotangent(outputs, ImageNoise(5, [7, 2, 5]), masks)
    assert not torch.allclose(together, other)


@pytest.mark.parametrize(
    ("pad", "formula"),
    [
        (lambda x: torch.nn.functional.pad(x, (0, 0, 0, 3)), Categorical()),
        (lambda x: torch.nn.functional.pad(x, (0, 0, 0, 3)), VarianceShare(component_dim=-1)),
        (lambda x: torch.nn.functional.pad(x, (0, 2, 0, 3)), VarianceShare()),
    ],
)
def test_padding_changes_nothing(pad: Callable[[Tensor], Tensor], formula: Formula) -> None:
    output, moved = normal(2, 4, 3), normal(2, 4, 3, seed=1)
    padded, noise = pad(output), ImageNoise(0, [0, 1])
    mask = pad(torch.ones(2, 4, 3)) > 0
    mask = mask if formula.component_dim is None else mask[..., 0]
    v = formula.cotangent(padded, noise, mask)[:, :4, :3]
    torch.testing.assert_close(v, formula.cotangent(output, noise), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        formula.distance(padded, pad(moved), mask), formula.distance(output, moved), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32_or_more(
    case: tuple[Formula, Tensor, Tensor | None], dtype: torch.dtype
) -> None:
    formula, output, mask = case
    half = output.to(dtype)
    v = formula.cotangent(half, ImageNoise(0, [IMAGE]), mask)
    assert v.dtype == torch.float32
    # The cotangent of the same numbers in float64 differs by the rounding of float32 only.
    exact = formula.cotangent(half.double(), ImageNoise(0, [IMAGE]), mask)
    torch.testing.assert_close(v.double(), exact, rtol=1e-4, atol=1e-5 * float(exact.abs().max()))
    moved = (output + 0.1).to(dtype)
    found, expected = (formula.distance(a, b, mask) for a, b in ((half, moved), (half.double(), moved.double())))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_figures_agree_with_other_formulas() -> None:
    dense, pruned = normal(3, 5), normal(3, 5, seed=1)
    kl = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=dense), torch.distributions.Categorical(logits=pruned)
    )
    found = Categorical().distance(dense, pruned)
    torch.testing.assert_close(found["kl"], kl)
    assert found["agreement"].tolist() == (dense.argmax(1) == pruned.argmax(1)).double().tolist()
    binary = torch.distributions.kl_divergence(
        torch.distributions.Bernoulli(logits=dense), torch.distributions.Bernoulli(logits=pruned)
    )
    found = Binary().distance(dense, pruned)
    torch.testing.assert_close(found["binary_kl"], binary.sum(1))
    torch.testing.assert_close(found["agreement"], ((dense > 0) == (pruned > 0)).double().mean(1))
    found = SquaredError().distance(dense, pruned)
    torch.testing.assert_close(found["squared_error"], (dense - pruned).square().sum(1))
    torch.testing.assert_close(found["distance"], found["squared_error"] / 2)
    share = (dense - pruned).square().sum(1) / (dense.var(1, correction=0) * 5)
    torch.testing.assert_close(VarianceShare().distance(dense, pruned)["variance_share"], share)
    torch.testing.assert_close(VarianceShare(-1).distance(dense, pruned)["variance_share"], share)
    texts = normal(6, 5, seed=2)
    found = Cosine(texts=texts).distance(dense, pruned)
    torch.testing.assert_close(found["cosine_distance"], 1 - cosine_similarity(dense, pruned))
    best = [cosine_similarity(x[:, None], texts[None], dim=-1).argmax(1) for x in (dense, pruned)]
    assert found["zero_shot_agreement"].tolist() == (best[0] == best[1]).double().tolist()


def test_figures_of_neighbors_agree_with_other_formulas() -> None:
    dense, pruned, bank = normal(3, 4), normal(3, 4, seed=1), normal(6, 4, seed=2)
    logits = [cosine_similarity(x[:, None], bank[None], dim=-1) / 0.05 for x in (dense, pruned)]
    kl = torch.nn.functional.kl_div(*(x.log_softmax(1) for x in logits[::-1]), log_target=True, reduction="none")
    found = Neighbors(NeighborBank(bank)).distance(dense, pruned)
    torch.testing.assert_close(found["neighbor_kl"], kl.sum(1))
    assert found["neighbor_agreement"].tolist() == (logits[0].argmax(1) == logits[1].argmax(1)).double().tolist()
    torch.testing.assert_close(found["cosine_distance"], 1 - cosine_similarity(dense, pruned))


def test_an_image_is_not_its_own_neighbor() -> None:
    bank = normal(6, 4, seed=2)
    own = Neighbors(NeighborBank(bank, (10, 11, 12, 13, 14, 15)))
    without = Neighbors(NeighborBank(torch.cat([bank[:2], bank[3:]])))
    found = own.distance(bank[2:3], bank[2:3] + 0.1, images=[12])
    torch.testing.assert_close(found, without.distance(bank[2:3], bank[2:3] + 0.1))
    everyone = Neighbors(NeighborBank(bank)).distance(bank[2:3], bank[2:3] + 0.1)
    assert float(everyone["neighbor_kl"]) != pytest.approx(float(found["neighbor_kl"]), rel=0.1)


def test_minus_infinity_is_an_impossible_class() -> None:
    dense, pruned = normal(2, 3, 4), normal(2, 3, 4, seed=1)
    hidden = torch.tensor([False, False, True, False])
    few = dense[..., ~hidden], pruned[..., ~hidden]
    for formula in (Categorical(), Binary()):
        found = formula.distance(*(x.masked_fill(hidden, -torch.inf) for x in (dense, pruned)))
        torch.testing.assert_close(found["distance"], formula.distance(*few)["distance"])
        v = formula.cotangent(dense.masked_fill(hidden, -torch.inf), ImageNoise(0, [0, 1]))
        assert (v[..., 2] == 0).all()
        assert v.isfinite().all()
    with pytest.raises(NonFiniteError, match="NaN or infinity"):
        SquaredError().cotangent(torch.tensor([[0.0], [-torch.inf]]), ImageNoise(0, [0, 1]))


def test_large_outputs_are_processed_in_parts(
    case: tuple[Formula, Tensor, Tensor | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    formula, output, mask = case
    outputs = torch.cat([output, output + 1, -output, output - 1, output])
    masks = None if mask is None else torch.cat([mask] * 5)
    moved, noise = outputs + 0.1, ImageNoise(4, [7, 2, 5, 0, 1])
    expected = formula.cotangent(outputs, noise, masks), formula.distance(outputs, moved, masks, noise.images)
    # Two images at once, so that the last part is smaller.
    monkeypatch.setattr("hf_vbp.output_distance.formula._VALUES_AT_ONCE", 2 * output.numel() + 1)
    found = formula.cotangent(outputs, noise, masks), formula.distance(outputs, moved, masks, noise.images)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("at_once", [1, 100])
def test_the_image_at_fault_is_named(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_vbp.output_distance.formula._VALUES_AT_ONCE", at_once)
    output = torch.tensor([[0.0, 1.0], [2.0, 1.0], [1.0, 1.0]])
    with pytest.raises(NonFiniteError, match=r"image 17 \(counted from 0\) has the same value"):
        VarianceShare().cotangent(output, ImageNoise(0, [4, 9, 17]))
    with pytest.raises(NonFiniteError, match="image 2 of the batch"):
        VarianceShare().distance(output, output)
    output[1, 1] = torch.nan
    with pytest.raises(NonFiniteError, match=r"image 9 .*NaN"):
        SquaredError().cotangent(output, ImageNoise(0, [4, 9, 17]))


def test_confident_logits_give_finite_values() -> None:
    dense, pruned = torch.tensor([[2e3, -2e3, 0.0]]), torch.tensor([[-2e3, 2e3, 0.0]])
    for formula in (Categorical(), Binary()):
        assert formula.cotangent(dense, ImageNoise(0, [0])).isfinite().all()
        # One class loses 4000 nats; or two labels, each from certain to impossible or the reverse, 2000 nats each.
        assert float(formula.distance(dense, pruned)["distance"]) == pytest.approx(4e3, rel=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Categorical().distance(normal(2, 3), normal(2, 4)), ConfigurationError, r"\(2, 3\) and \(2, 4\)"),
        (lambda: Categorical(component_dim=0).distance(normal(2, 3), normal(2, 3)), ConfigurationError, "components"),
        (lambda: Categorical(component_dim=2).distance(normal(2, 3), normal(2, 3)), ConfigurationError, "components"),
        (lambda: Categorical().cotangent(normal(2, 3), ImageNoise(0, [1])), ConfigurationError, "of 1 images"),
        (lambda: Categorical().distance(normal(2, 3), normal(2, 3), None, [1]), ConfigurationError, "of 1 images"),
        (lambda: Categorical().cotangent(torch.ones(2, 3).int(), ImageNoise(0, [1, 2])), ConfigurationError, "int32"),
        (lambda: Categorical().cotangent(normal(4), ImageNoise(0, [1])), ConfigurationError, r"\(4,\)"),
        (
            lambda: Categorical().distance(normal(2, 5, 3), normal(2, 5, 3), torch.ones(2, 4) > 0),
            ConfigurationError,
            r"\(2, 4\); expected torch.bool of the shape \(2, 5\)",
        ),
        (
            lambda: Categorical().distance(normal(2, 5, 3), normal(2, 5, 3), torch.ones(2, 5)),
            ConfigurationError,
            "mask is torch.float32",
        ),
        (
            lambda: Categorical().distance(normal(2, 2, 3), normal(2, 2, 3), torch.tensor([[True] * 2, [False] * 2])),
            DataError,
            "no position of image 1",
        ),
        (lambda: Categorical().distance(normal(1, 3) * torch.nan, normal(1, 3)), NonFiniteError, "NaN"),
        (lambda: Categorical().distance(normal(1, 3), normal(1, 3) * torch.nan), NonFiniteError, "NaN"),
        (lambda: VarianceShare().distance(torch.full((1, 3), 0.1), normal(1, 3)), NonFiniteError, "same value"),
        (lambda: VarianceShare().cotangent(torch.zeros(1, 3), ImageNoise(0, [0])), NonFiniteError, "same value"),
        (lambda: Cosine().cotangent(torch.zeros(1, 3), ImageNoise(0, [0])), NonFiniteError, "is zero"),
        (lambda: Cosine(texts=normal(5, 4)).distance(normal(2, 3), normal(2, 3)), ConfigurationError, r"\(5, 4\)"),
        (lambda: Neighbors().cotangent(normal(1, 3), ImageNoise(0, [0])), ConfigurationError, "no bank is set"),
        (lambda: Neighbors(BANK).cotangent(normal(1, 3), ImageNoise(0, [0])), ConfigurationError, "3 components"),
        (lambda: Neighbors(BANK, temperature=0.0), ConfigurationError, "temperature is 0.0"),
        (lambda: NeighborBank(normal(501, 3)), ConfigurationError, r"\(501, 3\)"),
        (lambda: NeighborBank(normal(2, 3)), ConfigurationError, r"\(2, 3\)"),
        (lambda: NeighborBank(normal(4, 3), (1, 2)), ConfigurationError, "2 numbers of images"),
        (lambda: NeighborBank(normal(4, 3) * torch.nan), NonFiniteError, "NaN"),
        (lambda: NeighborBank(torch.zeros(4, 3)), NonFiniteError, "is zero"),
        (lambda: OutputKind("depths"), ConfigurationError, "'depths'; expected one of logits, "),
    ],
)
def test_bad_input_is_refused(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_every_kind_has_a_formula() -> None:
    assert all(isinstance(kind.formula, Formula) for kind in OutputKind)

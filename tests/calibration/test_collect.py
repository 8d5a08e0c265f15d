"""The pass in one process."""

import gc
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hf_vbp.adapters.identity import weights_fingerprint
from hf_vbp.adapters.prepared import prepare
from hf_vbp.adapters.registry import find_sites
from hf_vbp.calibration import batch_moments, site_accumulator
from hf_vbp.calibration.collect import collect_statistics, statistics_bytes
from hf_vbp.config.requirements import Requirements
from hf_vbp.errors import ConfigurationError, DataError, NonFiniteError, StatisticsError, UnsupportedModelError
from hf_vbp.statistics.moments import Moments
from tests.calibration.helpers import DIAGONAL, EVERYTHING, FULL, METRIC, capture, images, in_batches, kept
from tests.conftest import make_model
from tests.families.running import BY_NAME

Batches = list[dict[str, torch.Tensor]]


@pytest.mark.parametrize("kind", ["vit", "vit-backbone", "deit", "deit-teacher"])
@pytest.mark.parametrize("requires", [DIAGONAL, FULL], ids=["diagonal", "full"])
def test_agrees_with_numpy_on_captured_activations(kind: str, requires: Requirements, batches: Batches) -> None:
    model = make_model(kind)
    statistics = collect_statistics(model, batches, requires)
    for site, values in zip(statistics.sites, capture(model, batches), strict=True):
        rows = values.numpy()
        assert site.moments.count == len(rows)
        np.testing.assert_allclose(site.moments.mean.numpy(), rows.mean(0), rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(site.moments.variance.numpy(), rows.var(0, ddof=1), rtol=1e-6)
        if requires.covariances:
            deviation = rows.std(0, ddof=1)
            error = np.abs(site.moments.covariance.numpy() - np.cov(rows.T)) / np.outer(deviation, deviation)
            assert error.max() < 1e-6
            assert torch.equal(site.moments.covariance, site.moments.covariance.T)
        else:
            assert site.moments.comoment is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_keep_their_dtype_and_agree(dtype: torch.dtype, batches: Batches) -> None:
    model = make_model(dtype=dtype)
    seen = []
    handle = find_sites(model)[0].fc2.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    statistics = collect_statistics(model, batches, DIAGONAL)
    handle.remove()
    assert set(seen) == {dtype}
    assert statistics.fingerprints["dtype"] == str(dtype).removeprefix("torch.")
    for site, values in zip(statistics.sites, capture(model, batches), strict=True):
        np.testing.assert_allclose(site.moments.variance.numpy(), values.numpy().var(0, ddof=1), rtol=1e-6)


def test_many_batches_are_as_accurate(vit: Any) -> None:
    values = images(80)
    values *= torch.linspace(0.1, 4, 80)[:, None, None, None]
    batches = in_batches(values, 1)
    statistics = collect_statistics(vit, batches, FULL)
    for site, rows in zip(statistics.sites, capture(vit, batches), strict=True):
        expected = np.cov(rows.numpy().T)
        scale = np.sqrt(np.outer(expected.diagonal(), expected.diagonal()))
        assert (np.abs(site.moments.covariance.numpy() - expected) / scale).max() < 1e-6


def test_batches_do_not_matter(vit: Any) -> None:
    values = images(37)
    one = collect_statistics(vit, in_batches(values, 37), DIAGONAL)
    for size in (1, 4, 16, 20):
        other = collect_statistics(vit, in_batches(values, size), DIAGONAL)
        assert (other.images, other.tokens) == (37, 37 * 17)
        assert kept(other) == kept(one)
        for mine, theirs in zip(one.sites, other.sites, strict=True):
            torch.testing.assert_close(mine.moments.variance, theirs.moments.variance, rtol=1e-6, atol=0)
            assert mine.halves is not None
            assert theirs.halves is not None
            for half, other_half in zip(mine.halves, theirs.halves, strict=True):
                assert half.count == other_half.count
                torch.testing.assert_close(half.variance, other_half.variance, rtol=1e-6, atol=0)


def test_the_halves_add_up(vit: Any) -> None:
    statistics = collect_statistics(vit, in_batches(images(37), 5), DIAGONAL)
    for site in statistics.sites:
        assert site.halves is not None
        assert [half.count for half in site.halves] == [21 * 17, 16 * 17]
        joined = site.halves[0].merge(site.halves[1])
        assert torch.equal(joined.m2, site.moments.m2)


def test_few_images_have_no_halves(vit: Any, batches: Batches) -> None:
    assert all(site.halves is None for site in collect_statistics(vit, batches[:1], DIAGONAL).sites)


def test_flags_and_modes_of_the_model_are_restored(vit: Any, batches: Batches) -> None:
    vit.train()
    vit.vit.layers[1].eval()
    before = {name: (value.clone(), value.requires_grad) for name, value in vit.named_parameters()}
    modes = [module.training for module in vit.modules()]
    collect_statistics(vit, batches, METRIC)
    assert [module.training for module in vit.modules()] == modes
    for name, value in vit.named_parameters():
        assert torch.equal(value, before[name][0])
        assert value.requires_grad == before[name][1]
        assert value.grad is None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in vit.modules())


def test_runs_in_eval_mode_without_gradients(vit: Any, batches: Batches) -> None:
    """Not in inference mode: a tensor that the model keeps from it could not be used in training."""
    seen = []
    vit.train()
    vit.register_forward_pre_hook(
        lambda module, _: seen.append((module.training, torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
    )
    collect_statistics(vit, batches, DIAGONAL)
    assert set(seen) == {(False, False, False)}


@pytest.mark.parametrize("requires", [DIAGONAL, METRIC, EVERYTHING])
def test_an_error_leaves_no_hook(vit: Any, batches: Batches, requires: Requirements) -> None:
    vit.train()
    broken = [*batches[:1], {"pixel_values": torch.randn(2, 3, 16, 16)}]
    with pytest.raises(ValueError, match="size"):
        collect_statistics(vit, broken, requires)
    assert vit.training
    assert all(parameter.requires_grad for parameter in vit.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in vit.modules())


@pytest.mark.parametrize("requires", [DIAGONAL, METRIC, EVERYTHING, Requirements(saliency=True)])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_pixels_that_are_not_finite_are_reported_as_those_of_the_image(
    vit: Any, batches: Batches, bad: float, requires: Requirements
) -> None:
    batches[2]["pixel_values"][3, 0, 5, 5] = bad
    with pytest.raises(NonFiniteError, match=r"^image 19 \(counted from 0\): its pixel_values hold NaN.* in float32"):
        collect_statistics(vit, batches, requires)


@pytest.mark.parametrize("requires", [DIAGONAL, METRIC, EVERYTHING])
def test_activations_that_are_not_finite_name_site_and_image(vit: Any, requires: Requirements) -> None:
    done: list[int] = []

    def spoil(module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (inputs[0] * torch.inf,) if len(done) == 2 else inputs

    find_sites(vit)[1].fc1.register_forward_pre_hook(spoil)
    with pytest.raises(NonFiniteError, match=r"site .*layers\.1\.mlp: the activations hold NaN.* image 16 "):
        collect_statistics(vit, in_batches(images(24), 8), requires, progress=lambda count, _: done.append(count))


@pytest.mark.parametrize("mean", [0.0, 1e8, 1e9])
def test_float64_models_are_computed_in_float64(mean: float) -> None:
    model = make_model(dtype=torch.float64)
    for site in find_sites(model):
        with torch.no_grad():
            site.fc1.bias.add_(mean)
            # Keeps the next block in range.
            site.fc2.bias.sub_(site.fc2.weight.sum(1) * mean)
    batches = in_batches(images(40).double(), 8)
    statistics = collect_statistics(model, batches, FULL)
    # The tolerance is the float64 rounding of the means, relative to the deviations.
    tolerance = 1e-12 + 100 * 2**-52 * mean
    for site, rows in zip(statistics.sites, capture(model, batches), strict=True):
        expected = Moments.of(rows, comoment=True)
        torch.testing.assert_close(site.moments.variance, expected.variance, rtol=tolerance, atol=0)
        deviation = expected.variance.sqrt()
        error = (site.moments.covariance - expected.covariance).abs() / torch.outer(deviation, deviation)
        assert float(error.max()) < tolerance


def test_devices_without_float64_sum_on_the_cpu(vit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = collect_statistics(vit, in_batches(images(40), 8), EVERYTHING)
    monkeypatch.setattr("hf_vbp.modeling.arithmetic.has_float64", lambda device: False)
    monkeypatch.setattr(
        site_accumulator, "batch_moments", lambda rows, _, add: batch_moments._device_moments(rows, add)
    )
    found = collect_statistics(vit, in_batches(images(40), 8), EVERYTHING)
    for mine, theirs in zip(found.sites, expected.sites, strict=True):
        assert mine.moments.m2.dtype == torch.float64
        torch.testing.assert_close(mine.moments.variance, theirs.moments.variance, rtol=1e-6, atol=0)
        torch.testing.assert_close(mine.metric, theirs.metric)
        deviation = theirs.moments.variance.sqrt()
        error = (mine.moments.covariance - theirs.moments.covariance).abs() / torch.outer(deviation, deviation)
        assert float(error.max()) < 1e-6


def test_a_saliency_refuses_images_that_can_be_read_only_once(vit: Any, batches: Batches) -> None:
    with pytest.raises(ConfigurationError, match=r"second pass.*generator can be iterated only once"):
        collect_statistics(vit, (batch for batch in batches), Requirements(saliency=True))


def test_overflow_inside_the_model_is_named(batches: Batches) -> None:
    model = make_model(dtype=torch.float16)
    with torch.no_grad():
        find_sites(model)[1].fc1.weight.mul_(3e4)
    with pytest.raises(NonFiniteError, match=r"layers\.1\.mlp.*image 0 .*bfloat16"):
        collect_statistics(model, batches, DIAGONAL)


def test_weights_that_are_not_finite_are_refused_before_any_image(vit: Any) -> None:
    with torch.no_grad():
        find_sites(vit)[2].fc2.weight[0, 0] = float("nan")

    def never() -> Any:
        raise AssertionError("an image was read")
        yield

    with pytest.raises(NonFiniteError, match=r"layers\.2"):
        collect_statistics(vit, never())


def test_a_limit_of_images_is_exact(vit: Any, batches: Batches) -> None:
    statistics = collect_statistics(vit, batches, DIAGONAL, limit=11)
    some = [batches[0], {"pixel_values": batches[1]["pixel_values"][:3]}]
    assert statistics.images == 11
    expected = collect_statistics(vit, some, DIAGONAL)
    assert torch.equal(statistics.sites[0].moments.m2, expected.sites[0].moments.m2)
    loader = DataLoader([{"pixel_values": image} for image in images(20)], batch_size=8)  # type: ignore[arg-type]
    assert collect_statistics(vit, loader, DIAGONAL, limit=11).images == 11


@pytest.mark.parametrize("requires", [DIAGONAL, METRIC], ids=["diagonal", "metric"])
def test_a_limit_cuts_images_that_are_token_ids(requires: Requirements) -> None:
    family = BY_NAME["ImageGPTModel"]
    model, one, two = family.build(), family.batch(2), family.batch(2, 0, 2)
    limited = collect_statistics(model, [one, two], requires, limit=3)
    expected = collect_statistics(model, [one, family.batch(1, 0, 2)], requires)
    assert limited.images == 3
    assert limited.sites[0].moments.count == 3 * one["input_ids"].shape[1]
    assert torch.equal(limited.sites[0].moments.m2, expected.sites[0].moments.m2)


def test_progress_reports_finished_and_all_images(vit: Any, batches: Batches) -> None:
    calls: list[tuple[int, int | None]] = []
    collect_statistics(vit, batches, DIAGONAL, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(8, None), (16, None), (24, None), (29, None), (30, None)]
    calls.clear()
    loader = DataLoader([{"pixel_values": image} for image in images(20)], batch_size=8)  # type: ignore[arg-type]
    collect_statistics(vit, loader, DIAGONAL, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(8, 20), (16, 20), (20, 20)]


@pytest.mark.parametrize("requires", [DIAGONAL, FULL], ids=["diagonal", "full"])
def test_memory_does_not_grow_with_the_images(vit: Any, requires: Requirements) -> None:
    alive: list[int] = []

    def count(done: int, total: int | None) -> None:
        # The queues of rank-one terms fill and empty every 32 batches of each half; look at the same fill.
        if done in (20, 148, 276):
            alive.append(sum(x.nbytes for x in gc.get_objects() if issubclass(type(x), torch.Tensor)))

    def stream() -> Any:
        for number in range(138):
            yield {"pixel_values": images(2, seed=number)}

    gc.collect()
    gc.freeze()  # count only what the pass allocates
    try:
        collect_statistics(vit, stream(), requires, progress=count)
    finally:
        gc.unfreeze()
    assert len(alive) == 3
    assert len(set(alive)) == 1


def test_the_size_is_known_beforehand_and_a_limit_is_kept(vit: Any, batches: Batches) -> None:
    sites = find_sites(vit)
    diagonal, full = (statistics_bytes(sites, requires) for requires in (DIAGONAL, FULL))
    assert diagonal == 8 * 3 * 4 * 48
    assert full == diagonal + 8 * 3 * 2 * 48**2
    assert statistics_bytes(sites, METRIC) == diagonal + 8 * 3 * 32**2
    collect_statistics(vit, batches, FULL, max_bytes=full)
    with pytest.raises(ConfigurationError, match=r"3 sites.* need 115,200 bytes.*max_bytes is 115,199.*without cov"):
        collect_statistics(vit, batches, FULL, max_bytes=full - 1)


def test_a_site_that_the_model_skips_is_named(vit: Any, batches: Batches) -> None:
    prepared = prepare(vit)
    vit.vit.layers[1].forward = lambda hidden_states, *args, **kwargs: hidden_states
    with pytest.raises(StatisticsError, match=r"layers\.1\.mlp was never used"):
        collect_statistics(prepared, batches, DIAGONAL)


def test_wrong_arguments_and_data_are_refused(vit: Any, batches: Batches) -> None:
    with pytest.raises(ConfigurationError, match="limit"):
        collect_statistics(vit, batches, limit=0)
    with pytest.raises(ConfigurationError, match="resume_every"):
        collect_statistics(vit, batches, resume_every=0)
    with pytest.raises(ConfigurationError, match="iterable of dicts"):
        collect_statistics(vit, 3)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no images"):
        collect_statistics(vit, [])
    with pytest.raises(DataError, match=r"pixel_values, got one with \['labels'\]"):
        collect_statistics(vit, [{"labels": torch.zeros(1)}])
    with pytest.raises(DataError, match="got a Tensor"):
        collect_statistics(vit, [torch.zeros(1, 3, 32, 32)])  # type: ignore[list-item]
    with pytest.raises(DataError, match="uint8"):
        collect_statistics(vit, [{"pixel_values": torch.zeros(1, 3, 32, 32, dtype=torch.uint8)}])
    with pytest.raises(UnsupportedModelError):
        collect_statistics(torch.nn.Linear(2, 2), batches)


def test_images_come_as_arrays_and_lists_too(vit: Any) -> None:
    values = images(4)
    expected = collect_statistics(vit, [{"pixel_values": values}], DIAGONAL)
    for form in (values.numpy(), list(values), [image.numpy() for image in values]):
        found = collect_statistics(vit, [{"pixel_values": form}], DIAGONAL)
        assert torch.equal(found.sites[0].moments.m2, expected.sites[0].moments.m2)


def test_fingerprints_describe_the_pass(vit: Any, batches: Batches) -> None:
    statistics = collect_statistics(vit, batches, provenance={"source": "here", "split": "train"})
    fingerprints = statistics.fingerprints
    assert fingerprints["weights"] == weights_fingerprint(vit)
    assert fingerprints["data"] == {"source": "here", "split": "train"}
    assert (fingerprints["images"], fingerprints["tokens"]) == (30, 510)
    assert fingerprints["model"]["model_type"] == "vit"
    assert set(fingerprints["versions"]) >= {"torch", "transformers"}
    assert len(fingerprints["image_sketch"]) == 30
    assert weights_fingerprint(make_model("vit", num_labels=3)) != ""


def test_the_fingerprint_is_of_the_weights_not_of_the_head() -> None:
    model, other = make_model("vit"), make_model("vit-backbone")
    other.load_state_dict(model.vit.state_dict(), strict=False)
    assert weights_fingerprint(model) == weights_fingerprint(other)
    with torch.no_grad():
        find_sites(other)[0].fc1.bias[0] += 1e-6
    assert weights_fingerprint(model) != weights_fingerprint(other)

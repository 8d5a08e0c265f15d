"""The zoo itself: every entry builds, runs, and gives each image the same outputs in any batch."""

from typing import Any

import pytest
import torch

from .family import Family
from .inventory import table
from .randomise import randomise, settle
from .running import model_of, rows_of, run
from .zoo import FAMILIES

# The contract test uses the zoo in every run; this is the test of the zoo itself.
pytestmark = pytest.mark.slow

EACH = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


@EACH
def test_the_model_is_of_the_class_in_eval_mode_and_float32(family: Family) -> None:
    model = model_of(family.name)
    assert type(model).__name__ == family.class_name
    assert not any(module.training for module in model.modules())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@EACH
def test_nothing_is_left_at_its_initial_value(family: Family) -> None:
    """Zeros and ones hide mistakes: a mean that is not subtracted, a scale that is not applied."""
    for name, parameter in model_of(family.name).named_parameters():
        if parameter.numel() > 1:
            assert parameter.std() > 0, name
        assert not parameter.numel() or not torch.isin(parameter, torch.tensor([0.0, 1.0])).all(), name


@EACH
def test_outputs_are_finite_and_the_same_in_every_batch(family: Family) -> None:
    """Images in batches of one and of three; random masking, where there is any, differs from pass to pass."""
    model = model_of(family.name)
    three = run(family, model, 3, 1)
    for tensor in three:
        assert torch.isfinite(tensor).all()
        assert tensor.shape[0] == sum(rows_of(family, 3, 1))
    if not family.deterministic:
        assert not all(map(torch.equal, three, run(family, model, 3, 1)))
        return
    parts = [tensor.split(rows_of(family, 3, 1)) for tensor in three]
    for image in range(3):
        alone = run(family, model, 1, 1 + image)
        for found, together in zip(alone, (part[image] for part in parts), strict=True):
            assert found.shape == together.shape
            assert (found - together).abs().max() <= 1e-4 * together.abs().max().clamp(min=1e-3)
    if not family.lengths:
        assert any(not torch.equal(part[0], part[1]) for part in parts), "the images give equal outputs"


@EACH
def test_an_image_does_not_depend_on_its_batch(family: Family) -> None:
    four, last = family.batch(4), family.batch(1, start=3)
    assert four.keys() == last.keys()
    for key, tensor in four.items():
        rows = tensor.shape[0] // 4 if not family.lengths else last[key].shape[0]
        assert torch.equal(tensor[-rows:], last[key]), key
        assert torch.equal(tensor, family.batch(4)[key]), key
    assert any(not torch.equal(tensor, family.batch(4, seed=1)[key]) for key, tensor in four.items())


def test_names_are_unique() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


def test_the_inventory_has_every_entry() -> None:
    rows = table(FAMILIES).splitlines()[2:]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == [family.name for family in FAMILIES]
    by_name = dict(zip((family.name for family in FAMILIES), rows))
    assert "linear_up.linear > linear_up.batch_norm" in by_name["LevitForImageClassification"]
    assert "(Conv1D)" in by_name["ImageGPTModel"]
    assert "| 0 | 0 | none |" in by_name["DetrForObjectDetection-resnet"]


def test_randomise_depends_on_seed_and_name_only() -> None:
    def made() -> Any:
        return torch.nn.ModuleDict({"norm": torch.nn.BatchNorm1d(4), "linear": torch.nn.Linear(4, 4)})

    one, same, other = randomise(made(), 0), randomise(made(), 0), randomise(made(), 1)
    for name, tensor in one.state_dict().items():
        if tensor.is_floating_point():
            assert torch.equal(tensor, same.state_dict()[name])
            assert not torch.equal(tensor, other.state_dict()[name])
    assert (one["norm"].running_var > 0).all()


def test_settle_brings_running_statistics_near_those_of_the_inputs() -> None:
    model = randomise(torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 4)).eval())
    inputs = 5 + 3 * torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    settle(model, {"input": inputs})
    norm = model[0]
    assert not norm.training
    assert ((norm.running_mean - 5).abs() < 5).all()
    assert (norm.running_mean != inputs.mean(0)).all()
    assert ((norm.running_var > 3) & (norm.running_var < 24)).all()


@EACH
def test_the_outputs_tell_images_apart(family: Family) -> None:
    """A model whose signal fades on the way would pass any test of pruning."""
    if family.lengths or not family.deterministic:
        return
    tensor = run(family, model_of(family.name), 4, 0)[0]
    assert tensor.std(dim=0).max() > 0.02 * tensor.std()

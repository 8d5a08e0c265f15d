"""Means over the images and their intervals."""

import math

import pytest
import torch

from hf_vbp.evaluation import Figure, wilson_interval
from hf_vbp.evaluation.figures import Accuracy


def test_the_interval_of_a_mean_contains_the_true_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.empty(2000, 100).exponential_(1.0, generator=generator)
    figures = [Figure.of(row) for row in drawn]
    inside = sum(low <= 1.0 <= high for low, high in (figure.interval or (9, 9) for figure in figures))
    assert 0.92 < inside / 2000 < 0.96
    assert figures[0].standard_error == pytest.approx(float(drawn[0].double().std()) / 10)


def test_shares_stay_between_0_and_1() -> None:
    of_images = Figure.of(torch.tensor([1.0, 1.0, 0.0, 1.0]), share=True)
    assert (of_images.mean, of_images.interval) == (0.75, wilson_interval(3, 4))
    of_pixels = Figure.of(torch.tensor([0.2, 1.0, 0.99]), share=True)
    assert of_pixels.interval is not None
    assert 0 <= of_pixels.interval[0] < of_pixels.mean < of_pixels.interval[1] == 1.0
    errors = Figure.of(torch.tensor([0.0, 0.0, 3.0]))
    assert errors.interval is not None
    assert errors.interval[0] == 0.0
    assert errors.interval[1] == pytest.approx(1 + 1.96 * math.sqrt(3) / math.sqrt(3), rel=1e-4)


def test_one_image_has_no_interval() -> None:
    assert Figure.of(torch.tensor([0.5])).to_dict() == {"mean": 0.5}


def test_the_change_of_an_accuracy() -> None:
    before, after = (
        Accuracy(torch.tensor([True, True, False, True])),
        Accuracy(torch.tensor([True, False, False, False])),
    )
    assert after.to_dict()["top1"] == 0.25
    assert "change" not in before.to_dict()
    assert after.to_dict(before)["change"] == -0.5

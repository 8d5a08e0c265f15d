"""Noise by image: normal, independent, and a function of seed and image alone."""

import numpy as np
import pytest
import torch
from torch import Tensor

from hf_vbp.output_distance import ImageNoise


def all_of(images: int, positions: int) -> Tensor:
    return torch.ones(images, positions, dtype=torch.bool)


def test_noise_is_standard_normal() -> None:
    e = ImageNoise(3, range(2_000)).at(all_of(2_000, 5), 10).double()
    n = e.numel()
    assert abs(float(e.mean())) < 4 / n**0.5
    assert abs(float(e.square().mean()) - 1) < 4 * (2 / n) ** 0.5
    assert abs(float(e.pow(4).mean()) - 3) < 4 * (96 / n) ** 0.5


@pytest.mark.parametrize(
    "other",
    [
        ImageNoise(4, range(500)),
        ImageNoise(3, range(1, 501)),
        ImageNoise(3, range(500)).with_draw(1),
        ImageNoise(3, range(500)).with_stream(1),
        ImageNoise(-3, range(500)),
        ImageNoise(3 + 2**32, range(500)),
        ImageNoise(3, range(2**32, 2**32 + 500)),
    ],
    ids=["seed", "image", "draw", "stream", "negative seed", "high bits of the seed", "high bits of the image"],
)
def test_noise_of_others_is_independent(other: ImageNoise) -> None:
    first, second = (noise.at(all_of(500, 1), 40).flatten().double() for noise in (ImageNoise(3, range(500)), other))
    assert abs(float(first @ second)) / len(first) < 4 / len(first) ** 0.5


def test_noise_is_that_of_the_generator() -> None:
    counter = np.array([0, 0, 2, 1], dtype=np.uint64)
    generator = np.random.Generator(np.random.Philox(key=np.array([9, 17], dtype=np.uint64), counter=counter))
    expected = torch.from_numpy(generator.standard_normal(6, dtype=np.float32)).view(3, 2)
    found = ImageNoise(9, [4, 17], draw=2, stream=1).at(all_of(2, 3), 2)[1]
    assert found.equal(expected)


def test_positions_that_do_not_count_consume_nothing() -> None:
    counted = torch.tensor([[False, True, True, False, True]])
    found = ImageNoise(0, [6]).at(counted, 4)
    assert found[counted].equal(ImageNoise(0, [6]).at(all_of(1, 3), 4)[0])
    assert (found[~counted] == 0).all()

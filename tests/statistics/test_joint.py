"""Joint moments against those of all samples at once."""

import torch

from hf_vbp.statistics.joint import JointMoments


def samples() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = 3 + torch.randn(50, 4, generator=generator, dtype=torch.float64)
    return hidden, hidden @ torch.randn(4, 2, generator=generator, dtype=torch.float64) - 1


def test_merged_parts_are_the_whole() -> None:
    hidden, output = samples()
    parts = [JointMoments.of(hidden[a:b], output[a:b]) for a, b in ((0, 1), (1, 20), (20, 50))]
    merged = parts[0].merge(parts[1]).merge(parts[2])
    rows = torch.cat([hidden, output], 1)
    assert (merged.count, merged.hidden) == (50, 4)
    torch.testing.assert_close(merged.mean, rows.mean(0))
    torch.testing.assert_close(merged.comoment / 49, torch.cov(rows.T))


def test_about_the_origin() -> None:
    hidden, output = samples()
    rows = torch.cat([hidden, output], 1)
    about = JointMoments.of(hidden, output).about(None)
    torch.testing.assert_close(about.comoment, rows.T @ rows)
    torch.testing.assert_close(about.mean, rows.mean(0))


def test_about_a_bias_that_is_kept_in_part() -> None:
    hidden, output = samples()
    bias = torch.tensor([0.5, -2.0], dtype=torch.float64)
    rows = torch.cat([hidden, output - bias], 1)
    about = JointMoments.of(hidden, output).about(bias, 0.25)
    torch.testing.assert_close(about.mean, rows.mean(0))
    torch.testing.assert_close(about.comoment, 0.25 * (rows.T @ rows) + 0.75 * 49 * torch.cov(rows.T))

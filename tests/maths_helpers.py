"""Small sites with made-up statistics, for the tests of the maths."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from hf_vbp.adapters.site_weights import SiteWeights


@dataclass
class FakeMoments:
    count: int
    mean: Tensor
    comoment: Tensor | None
    m2: Tensor | None = None

    @property
    def variance(self) -> Tensor:
        m2 = self.m2 if self.m2 is not None else self.comoment.diagonal()
        return m2 / (self.count - 1)

    @property
    def covariance(self) -> Tensor:
        return self.comoment / (self.count - 1)

    @classmethod
    def of(cls, samples: Tensor, *, full: bool = True) -> "FakeMoments":
        """Two-pass moments of ``samples`` (tokens, hidden)."""
        mean = samples.mean(0)
        centred = samples - mean
        comoment = centred.T @ centred
        return cls(len(samples), mean, comoment if full else None, comoment.diagonal().clone())


@dataclass
class FakeSite:
    name: str
    moments: FakeMoments
    metric: Tensor | None = None
    halves: tuple[FakeMoments, FakeMoments] | None = None
    index: int = 0
    weighted: FakeMoments | None = None
    samples: Tensor | None = field(default=None, repr=False)


def random_samples(hidden: int, tokens: int, *, seed: int = 0, rank: int | None = None) -> Tensor:
    """Correlated hidden activations with unequal scales and means, (tokens, hidden) float64."""
    generator = torch.Generator().manual_seed(seed)
    rank = hidden if rank is None else rank
    mixing = torch.randn(rank, hidden, generator=generator, dtype=torch.float64)
    scales = torch.rand(hidden, generator=generator, dtype=torch.float64) + 0.1
    latent = torch.randn(tokens, rank, generator=generator, dtype=torch.float64)
    return (latent @ mixing) * scales + torch.randn(hidden, generator=generator, dtype=torch.float64)


def random_site(
    hidden: int = 12, out: int = 5, *, tokens: int = 200, seed: int = 0, metric: bool = False, bias: bool = True
) -> tuple[FakeSite, SiteWeights]:
    """One site with its samples, whose halves are the first and the second half of the tokens."""
    samples = random_samples(hidden, tokens, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1000)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    factor = normal(out, out)
    site = FakeSite(
        name=f"encoder.layers.{seed}.mlp",
        moments=FakeMoments.of(samples),
        metric=factor @ factor.T / out if metric else None,
        halves=(FakeMoments.of(samples[: tokens // 2]), FakeMoments.of(samples[tokens // 2 :])),
        index=seed,
        samples=samples,
    )
    weights = SiteWeights(
        fc1_weight=normal(hidden, out),
        fc1_bias=normal(hidden) if bias else None,
        fc2_weight=normal(out, hidden),
        fc2_bias=normal(out) if bias else None,
    )
    return site, weights


def output_error(site: FakeSite, weights: SiteWeights, kept: Tensor, fc2_weight: Tensor, fc2_bias: Tensor) -> float:
    """Mean over the samples of the squared error of the output, in the metric of the site, divisor n - 1."""
    dense = site.samples @ weights.fc2_weight.T
    dense = dense if weights.fc2_bias is None else dense + weights.fc2_bias
    pruned = site.samples[:, kept] @ fc2_weight.T
    pruned = pruned if fc2_bias is None else pruned + fc2_bias
    error = dense - pruned
    metric = torch.eye(error.shape[1], dtype=torch.float64) if site.metric is None else site.metric
    return float(((error @ metric) * error).sum() / (len(error) - 1))

"""Small sites with random samples, for the tests of the maths."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from hf_vbp.adapters.site_weights import SiteWeights
from hf_vbp.statistics.moments import Moments
from hf_vbp.statistics.site_statistics import SiteStatistics


@dataclass(frozen=True, eq=False)
class SampledSite(SiteStatistics):
    """Statistics of a site together with the samples ``(tokens, hidden)`` that they were computed from."""

    samples: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.float64), repr=False)

    def with_samples(self, samples: Tensor) -> "SampledSite":
        """The site with other samples and their moments; the halves are unchanged."""
        return replace(self, samples=samples, moments=full(samples))

    def without_covariances(self) -> "SampledSite":
        """The site with variances only."""
        return replace(self, moments=self.moments.diagonal())


def full(samples: Tensor) -> Moments:
    """The moments of ``samples`` with co-moments."""
    return Moments.of(samples, comoment=True)


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
) -> tuple[SampledSite, SiteWeights]:
    """One site with its samples, whose halves are the first and the second half of the tokens."""
    samples = random_samples(hidden, tokens, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1000)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    factor = normal(out, out)
    site = SampledSite(
        name=f"encoder.layers.{seed}.mlp",
        moments=full(samples),
        metric=factor @ factor.T / out if metric else None,
        halves=(full(samples[: tokens // 2]), full(samples[tokens // 2 :])),
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


def output_error(site: SampledSite, weights: SiteWeights, kept: Tensor, fc2_weight: Tensor, fc2_bias: Tensor) -> float:
    """Mean over the samples of the squared error of the output, in the metric of the site, divisor n - 1."""
    dense = site.samples @ weights.fc2_weight.T
    dense = dense if weights.fc2_bias is None else dense + weights.fc2_bias
    pruned = site.samples[:, kept] @ fc2_weight.T
    pruned = pruned if fc2_bias is None else pruned + fc2_bias
    error = dense - pruned
    metric = torch.eye(error.shape[1], dtype=torch.float64) if site.metric is None else site.metric
    return float(((error @ metric) * error).sum() / (len(error) - 1))

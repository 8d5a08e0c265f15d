"""Seconds of the greedy elimination and of the least-squares compensation of one site, by width.

    python -m benchmarks.elimination [--widths 768 1536 3072] [--sites 12] [--device cuda]

Covariances are random, with the rank and the noise of real ones; the time does not depend on their values.
"""

import argparse
import time

import torch

from hf_vbp.adapters.site_weights import SiteWeights
from hf_vbp.compensation.linear import Linear
from hf_vbp.criteria.elimination import eliminate, output_gram
from hf_vbp.statistics.moments import Moments
from hf_vbp.statistics.site_statistics import SiteStatistics


def make_site(hidden: int, seed: int = 0) -> tuple[SiteStatistics, SiteWeights]:
    """Return a site of ``hidden`` neurons over an output a quarter as wide."""
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(2 * hidden, hidden // 4, generator=generator)
    samples = latent @ torch.randn(hidden // 4, hidden, generator=generator)
    samples += 3 * torch.randn(2 * hidden, hidden, generator=generator)
    moments = Moments.of(samples, comoment=True)
    fc2_weight = torch.randn(hidden // 4, hidden, generator=generator, dtype=torch.float64)
    fc1_weight = torch.zeros(hidden, hidden // 4, dtype=torch.float64)
    weights = SiteWeights(fc1_weight, None, fc2_weight, torch.zeros(hidden // 4, dtype=torch.float64))
    return SiteStatistics("site", 0, moments), weights


def main() -> None:
    """Print one line per width."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[768, 1536, 3072])
    parser.add_argument("--sites", type=int, default=12, help="number of sites of the model, for the total")
    parser.add_argument("--device", default=None)
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, device {options.device or 'cpu'}")
    for hidden in options.widths:
        site, weights = make_site(hidden)
        covariance = site.moments.covariance
        covariance.diagonal().add_(1e-3 * covariance.diagonal().mean())
        start = time.perf_counter()
        curve = eliminate(covariance, output_gram(weights.fc2_weight), device=options.device)
        middle = time.perf_counter()
        Linear().fit(weights, curve.kept(hidden // 2), site)
        end = time.perf_counter()
        print(
            f"width {hidden}: elimination {middle - start:.2f} s per site, "
            f"{options.sites * (middle - start):.1f} s in total; compensation at half the width "
            f"{end - middle:.2f} s per site, {options.sites * (end - middle):.1f} s in total"
        )


if __name__ == "__main__":
    main()

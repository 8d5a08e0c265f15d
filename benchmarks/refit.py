"""The refit of MLPs whose neurons a normalization mixes (GRN, LayerNorm), by the number of calibration images.

    python -m benchmarks.refit MODEL CALIBRATION EVALUATION [--images 4 16 64 500] [--ratios 0.3 0.5 0.7]

``MODEL`` is a classifier with such MLPs, for instance the ConvNeXtV2 that ``benchmarks.small_families`` trains. For
each number of images: the default method without the refit, with a ridge of 0.001 towards zero (the former refit,
which is kept here only), and with the present one, whose ridge is towards the first fit. Prints top-1 and, in
brackets, the KL divergence from the dense model on the evaluation images, as a Markdown table.
"""

import argparse
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

import hf_vbp
from benchmarks.few_images import Judge
from hf_vbp.adapters.prepared import prepare
from hf_vbp.compensation.base import Compensated, CompensationWarning
from hf_vbp.compensation.least_squares import cholesky
from hf_vbp.compensation.linear import DEFAULT_RIDGE, Linear
from hf_vbp.pruning.refit import mixed_sites
from hf_vbp.statistics.joint import JointMoments
from hf_vbp.statistics.site_moments import damped

METHODS = ("without", "towards zero", "towards the first fit")


def towards_zero(_: Linear, fitted: Compensated, joint: JointMoments) -> Compensated:
    """Return the fit of the dense outputs with a ridge towards weights of zero."""
    hidden, about = joint.hidden, joint if fitted.bias is not None else joint.about(None)
    factor = cholesky(damped(about.comoment[:hidden, :hidden], DEFAULT_RIDGE))
    if not hidden or factor is None:
        return fitted
    weight = torch.cholesky_solve(about.comoment[:hidden, hidden:], factor).T
    return Compensated(weight, None if fitted.bias is None else about.mean[hidden:] - weight @ about.mean[:hidden])


@contextmanager
def refit_of(method: str) -> Iterator[None]:
    """Use the former refit where ``method`` names it."""
    present = Linear.refit
    if method == "towards zero":
        Linear.refit = towards_zero  # type: ignore[method-assign]
    try:
        yield
    finally:
        Linear.refit = present  # type: ignore[method-assign]


def cells(options: argparse.Namespace) -> Iterator[tuple[int, float, list[str]]]:
    """Yield the number of images, the ratio, and a cell for each method."""
    model = hf_vbp.from_pretrained(options.model).eval()
    prepared = prepare(model)
    if not mixed_sites(prepared):
        raise SystemExit(f"{type(model).__name__} has no MLP whose neurons are mixed, so nothing is refitted.")
    judge = Judge.of(model, options.evaluation, options.evaluation_limit)
    for count in options.images:
        images = hf_vbp.load_images(options.calibration, model=model, limit=count, seed=options.seed)
        data = list(images.loader)
        statistics = hf_vbp.collect_statistics(prepared, data, hf_vbp.VBPConfig())
        for ratio in options.ratios:
            config = hf_vbp.VBPConfig(ratio=ratio)
            made = []
            for method in METHODS:
                given = None if method == "without" else data
                with refit_of(method), warnings.catch_warnings():
                    warnings.simplefilter("ignore", CompensationWarning)
                    pruned = hf_vbp.prune(prepared, given, config, statistics=statistics).model
                right, divergence = judge(pruned)
                made.append(f"{100 * float(right.mean()):.1f} ({float(divergence.mean()):.4f})")
            yield count, ratio, made


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("calibration")
    parser.add_argument("evaluation")
    parser.add_argument("--images", nargs="+", type=int, default=[4, 16, 64, 500])
    parser.add_argument("--ratios", nargs="+", type=float, default=[0.3, 0.5, 0.7])
    parser.add_argument("--evaluation-limit", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options: Any = parser.parse_args(arguments)
    print(f"| images | neurons removed | {' | '.join(METHODS)} |\n|---|---|{'---|' * len(METHODS)}")
    for count, ratio, made in cells(options):
        print(f"| {count} | {100 * ratio:g} % | {' | '.join(made)} |", flush=True)


if __name__ == "__main__":
    main()

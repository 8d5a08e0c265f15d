"""Regularizations of the covariance, by the number of calibration images.

    python -m benchmarks.few_images MODEL CALIBRATION EVALUATION --output FILE.csv [--limits 64 125 250 500]

For each number of calibration images: one pass, the neurons chosen by ``obs``, and the compensation fitted with each
regularization, ``KIND:STRENGTH`` or ``held-out``, which chooses one for each site by the error on the half of the
images that was not used for the fit; ``unweighted`` is the first with equal weights of all tokens, for ``obs`` too.
Measures top-1 and the KL divergence from the dense model on the same evaluation images; the differences are to the
first regularization, with 95 % intervals of the paired means. Prints a Markdown table.
"""

import argparse
import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageClassification

from hf_vbp.adapters.prepared import prepare
from hf_vbp.calibration.collect import collect_statistics
from hf_vbp.config.requirements import Requirements
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.data.loading import load_images
from hf_vbp.pruning.apply_plan import apply_fitted
from hf_vbp.pruning.make_plan import fit_plan, precompute_scores, rank_sites

REGULARIZATIONS = ("auto", "ridge:1e-3", "unweighted", "ledoit-wolf:1", "oas:1", "edge:0.1", "held-out")


@dataclass(frozen=True)
class Row:
    """One pruned model; ``difference`` and ``interval`` are of the KL divergence, to the first regularization."""

    images: int
    ratio: float
    regularization: str
    top1: float
    kl: float
    top1_difference: float
    top1_interval: float
    kl_difference: float
    kl_interval: float


@dataclass(frozen=True)
class Judge:
    """The evaluation images and the outputs of the dense model on them."""

    batches: Sequence[Mapping[str, torch.Tensor]]
    labels: torch.Tensor
    dense: torch.Tensor

    @classmethod
    def of(cls, model: Any, source: str, limit: int | None, device: str = "cpu") -> "Judge":
        """Load the images and run the dense model, which is on ``device``."""
        images = load_images(source, model=model, limit=limit, require_labels=True, purpose="evaluation")
        batches = [{name: value.to(device) for name, value in batch.items()} for batch in images.loader]
        return cls(batches, torch.cat([batch["labels"] for batch in batches]), log_probabilities(model, batches))

    def __call__(self, model: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return, for each image, whether ``model`` is correct and its KL divergence from the dense model."""
        found = log_probabilities(model, self.batches)
        right = (found.argmax(-1) == self.labels).double()
        return right.cpu(), (self.dense.exp() * (self.dense - found)).sum(-1).double().cpu()


@torch.inference_mode()
def log_probabilities(model: Any, batches: Sequence[Mapping[str, torch.Tensor]]) -> torch.Tensor:
    """Return ``(images, labels)`` float32."""
    return torch.cat([model(pixel_values=batch["pixel_values"]).logits.log_softmax(-1) for batch in batches])


def compensation_options(regularization: str) -> dict[str, Any]:
    """Return the options of the linear compensation for ``KIND:STRENGTH``, ``held-out`` or ``unweighted``."""
    if regularization == "unweighted":
        return {"token_weights": "none"}
    kind, _, strength = regularization.partition(":")
    return {"regularization": kind, **({"ridge": float(strength)} if strength else {})}


def run(options: argparse.Namespace) -> Iterator[Row]:
    """Yield one row for each pruned model."""
    model = AutoModelForImageClassification.from_pretrained(options.model).eval().to(options.device)
    prepared = prepare(model)
    judge = Judge.of(model, options.evaluation, options.evaluation_limit, options.device)
    for limit in options.limits:
        images = load_images(options.calibration, model=model, limit=limit, seed=options.seed)
        requires = Requirements(covariances=True, output_metric=True, token_weights=True, halves=True)
        statistics = collect_statistics(prepared, images, requires, seed=options.seed)
        methods = {
            kind: VBPConfig(criterion_options={"token_weights": kind, "metric": "gradient"})
            for kind in ("gradient", "none")
        }
        rankings = {
            kind: rank_sites(prepared, precompute_scores(prepared, statistics, method, device=options.device), method)
            for kind, method in methods.items()
        }
        for ratio in options.ratios:
            first: tuple[torch.Tensor, torch.Tensor] | None = None
            for regularization in options.regularizations:
                kind = "none" if regularization == "unweighted" else "gradient"
                config = replace(methods[kind], ratio=ratio, compensation_options=compensation_options(regularization))
                fitted = fit_plan(prepared, statistics, config, rankings=rankings[kind])
                right, kl = judge(apply_fitted(prepared, fitted))
                first = first or (right, kl)
                changes = [paired(mine - theirs) for mine, theirs in zip((right, kl), first, strict=True)]
                means = float(right.mean()), float(kl.mean())
                yield Row(limit, ratio, regularization, *means, *changes[0], *changes[1])


def paired(differences: torch.Tensor) -> tuple[float, float]:
    """Return the mean and half of its 95 % interval."""
    return float(differences.mean()), float(1.96 * differences.std() / len(differences) ** 0.5)


def table(rows: Sequence[Row]) -> str:
    """Return the Markdown table: top-1 and, in brackets, the KL divergence."""
    names = list(dict.fromkeys(row.regularization for row in rows))
    lines = [f"| images | ratio | {' | '.join(names)} |", f"|---|---|{'---|' * len(names)}"]
    for images, ratio in dict.fromkeys((row.images, row.ratio) for row in rows):
        cells = [
            f"{row.top1:.3f} ({row.kl:.3f}{marks(row)})" for row in rows if (row.images, row.ratio) == (images, ratio)
        ]
        lines.append(f"| {images} | {ratio:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def marks(row: Row) -> str:
    """Return ``-`` or ``+`` where the KL divergence differs from that of the first by more than its interval."""
    if abs(row.kl_difference) <= row.kl_interval or not row.kl_interval:
        return ""
    return "-" if row.kl_difference < 0 else "+"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, write the CSV and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("calibration")
    parser.add_argument("evaluation")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--limits", type=int, nargs="+", default=[64, 125, 250, 500], help="calibration images")
    parser.add_argument("--evaluation-limit", type=int)
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.5, 0.6, 0.7])
    parser.add_argument("--regularizations", nargs="+", default=list(REGULARIZATIONS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    rows: list[Row] = []
    for row in run(options):
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
        with options.output.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Row)])
            writer.writeheader()
            writer.writerows(map(asdict, rows))
    print(table(rows))


if __name__ == "__main__":
    main()

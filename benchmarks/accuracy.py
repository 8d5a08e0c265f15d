"""Accuracy of pruned models without training: criteria x compensations x ratios, on the same images.

    python -m benchmarks.accuracy --case MODEL CALIBRATION EVALUATION [--case ...] --output DIR

``MODEL`` is a Hub id or a folder, ``CALIBRATION`` and ``EVALUATION`` are image folders or data sets of the Hub. One
pass of statistics serves all variants of a model. Writes ``accuracy.csv``, ``accuracy.md`` and ``accuracy.png``: top-1
with its Wilson interval, retention, MACs, and the p-value of McNemar's exact test against the paper's variant
(``variance`` with ``mean``) at the same ratio.
"""

import argparse
import csv
import functools
import operator
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import comb, sqrt
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageClassification

from hf_vbp.adapters.prepared import prepare
from hf_vbp.calibration.collect import collect_statistics
from hf_vbp.config.registry import COMPENSATIONS, CRITERIA
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.costs.counts import count_macs
from hf_vbp.data.loading import load_images
from hf_vbp.pruning.apply_plan import apply_fitted
from hf_vbp.pruning.make_plan import fit_plan, precompute_scores, rank_sites

PAPER = ("variance", "mean")
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


@dataclass(frozen=True)
class Row:
    """One pruned model; shares are fractions of 1."""

    model: str
    criterion: str
    compensation: str
    ratio: float
    macs: float
    images: int
    dense_top1: float
    top1: float
    low: float
    high: float
    retention: float
    agreement: float
    predicted_error: float
    won: int
    lost: int
    p_value: float


def wilson(hits: int, images: int, z: float = 1.959964) -> tuple[float, float]:
    """Return Wilson's score interval of a share, 95 % by default."""
    share, spread = hits / images, z * z / images
    center = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * sqrt(share * (1 - share) / images + spread / (4 * images))
    return center - half, center + half


def mcnemar(won: int, lost: int) -> float:
    """Return the two-sided p-value of McNemar's exact test.

    Args:
        won: Images that only the first model classifies correctly.
        lost: Images that only the second model classifies correctly.
    """
    changed, least = won + lost, min(won, lost)
    tail = sum(comb(changed, k) for k in range(least + 1)) / 2**changed
    return min(1.0, 2 * tail)


@torch.inference_mode()
def predict(model: Any, batches: Sequence[Mapping[str, torch.Tensor]]) -> torch.Tensor:
    """Return the predicted class of every image, ``(images,)`` int64, on the CPU."""
    return torch.cat([model(pixel_values=batch["pixel_values"]).logits.argmax(-1).cpu() for batch in batches])


def run_case(case: Sequence[str], options: argparse.Namespace) -> Iterator[Row]:
    """Yield one row for each pruned model of a case."""
    name, calibration, evaluation = case
    model = AutoModelForImageClassification.from_pretrained(name).eval().to(options.device)
    images = load_images(calibration, model=model, limit=options.limit, seed=options.seed)
    # The paper's variant first: the others are compared with it.
    pairs = [(c, k) for c in options.criteria for k in options.compensations]
    configs = [
        VBPConfig(criterion=criterion, compensation=compensation)
        for criterion, compensation in [PAPER, *(pair for pair in pairs if pair != PAPER)]
    ]
    requires = functools.reduce(operator.or_, (config.requires for config in configs))
    prepared = prepare(model)
    statistics = collect_statistics(prepared, images, requires, seed=options.seed)
    held_out = load_images(
        evaluation, model=model, limit=options.evaluation_limit, require_labels=True, purpose="evaluation"
    )
    labelled = list(held_out.loader)
    batches = [{"pixel_values": batch["pixel_values"].to(options.device)} for batch in labelled]
    labels = torch.cat([batch["labels"] for batch in labelled])
    dense = predict(model, batches)
    dense_macs, dense_top1 = count_macs(model), (dense == labels).double().mean().item()
    papers: dict[float, torch.Tensor] = {}
    rankings: dict[str, Any] = {}
    for config in configs:
        if config.criterion not in rankings:
            scored = precompute_scores(prepared, statistics, config, device=options.device)
            rankings[config.criterion] = rank_sites(prepared, scored, config)
        for ratio in options.ratios:
            fitted = fit_plan(
                prepared, statistics, config.with_budget(ratio=ratio), rankings=rankings[config.criterion]
            )
            pruned = apply_fitted(prepared, fitted)
            predicted = predict(pruned, batches)
            right = predicted == labels
            paper = papers.setdefault(ratio, right)
            won, lost = int((right & ~paper).sum()), int((~right & paper).sum())
            low, high = wilson(int(right.sum()), len(labels))
            top1 = right.double().mean().item()
            yield Row(
                model=Path(name).name,
                criterion=config.criterion,
                compensation=config.compensation,
                ratio=ratio,
                macs=count_macs(pruned) / dense_macs,
                images=len(labels),
                dense_top1=dense_top1,
                top1=top1,
                low=low,
                high=high,
                retention=top1 / dense_top1,
                agreement=(predicted == dense).double().mean().item(),
                predicted_error=fitted.plan.predicted["relative_output_error"],
                won=won,
                lost=lost,
                p_value=mcnemar(won, lost),
            )


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write all figures, one line per pruned model."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        for row in rows:
            writer.writerow({k: round(v, 6) if isinstance(v, float) else v for k, v in asdict(row).items()})


def write_table(rows: Sequence[Row], path: Path) -> None:
    """Write top-1 by ratio for each model, in Markdown; a star marks p < 0.05 against the paper's variant."""
    lines = []
    for model in dict.fromkeys(row.model for row in rows):
        of_model = [row for row in rows if row.model == model]
        ratios = list(dict.fromkeys(row.ratio for row in of_model))
        first = of_model[0]
        lines += [
            f"**{model}**: top-1 {first.dense_top1:.3f} before pruning, {first.images} images",
            "",
            "| criterion | compensation | " + " | ".join(f"{ratio:g}" for ratio in ratios) + " |",
            "|---|---|" + "---|" * len(ratios),
        ]
        for criterion, compensation in dict.fromkeys((row.criterion, row.compensation) for row in of_model):
            cells = [
                f"{row.top1:.3f}{'*' if row.p_value < 0.05 else ''}"
                for row in of_model
                if (row.criterion, row.compensation) == (criterion, compensation)
            ]
            lines.append(f"| {criterion} | {compensation} | " + " | ".join(cells) + " |")
        lines.append("")
    path.write_text("\n".join(lines), encoding="utf-8")


def write_plot(rows: Sequence[Row], path: Path) -> None:
    """Plot retention against ratio (left) and against the share of MACs kept (right), one row per model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    models = list(dict.fromkeys(row.model for row in rows))
    figure, axes = pyplot.subplots(
        len(models), 2, figsize=(13, 4 * len(models)), squeeze=False, sharey="row", layout="constrained"
    )
    for model, (by_ratio, by_macs) in zip(models, axes, strict=True):
        of_model = [row for row in rows if row.model == model]
        for variant in dict.fromkeys((row.criterion, row.compensation) for row in of_model):
            line = [row for row in of_model if (row.criterion, row.compensation) == variant]
            style = {"label": " + ".join(variant), "marker": "o", "markersize": 3}
            style["linestyle"] = {"none": ":", "mean": "--", "linear": "-"}.get(variant[1], "-")
            style["color"] = f"C{sorted({row.criterion for row in of_model}).index(variant[0])}"
            by_ratio.plot([row.ratio for row in line], [row.retention for row in line], **style)
            by_macs.plot([row.macs for row in line], [row.retention for row in line], **style)
        by_ratio.set(title=model, xlabel="share of hidden neurons removed", ylabel="top-1 retention")
        by_macs.set(title=model, xlabel="share of MACs kept")
        by_macs.invert_xaxis()
    lines, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(lines, names, fontsize="small", loc="outside right center", handlelength=4)
    figure.savefig(path, dpi=110)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--case", nargs=3, action="append", required=True, metavar=("MODEL", "CALIBRATION", "EVALUATION")
    )
    parser.add_argument("--criteria", nargs="+", choices=sorted(CRITERIA), default=["variance", "obs"])
    parser.add_argument(
        "--compensations", nargs="+", choices=sorted(COMPENSATIONS), default=["none", "mean", "linear"]
    )
    parser.add_argument("--ratios", nargs="+", type=float, default=list(RATIOS))
    parser.add_argument("--limit", type=int, help="calibration images, by default all")
    parser.add_argument("--evaluation-limit", type=int, help="evaluation images, by default all")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the images and of the output metric")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all cases and write the three files, after every model."""
    options = parse(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for case in options.case:
        for row in run_case(case, options):
            rows.append(row)
            print(f"{row.model} {row.criterion}+{row.compensation} {row.ratio:g}: {row.top1:.3f}", file=sys.stderr)
        write_csv(rows, options.output / "accuracy.csv")
        write_table(rows, options.output / "accuracy.md")
        write_plot(rows, options.output / "accuracy.png")


if __name__ == "__main__":
    main()

"""What each lever keeps and gains without training: dense, narrower MLPs, merged tokens, and both, at budgets of MACs.

    python -m benchmarks.levers MODEL CALIBRATION EVALUATION --macs 0.6 0.52 0.45 --output DIR
    python -m benchmarks.levers MODEL CALIBRATION EVALUATION --macs 0.6 --latency --output DIR --write README.md

``MODEL`` is a Hub id or a folder, ``CALIBRATION`` and ``EVALUATION`` are image folders or data sets of the Hub.
Everything is chosen on the calibration images; each model is evaluated once. Writes ``levers.csv`` and ``levers.md``:
the share of MACs, the weights in MB, top-1 with the paired 95 % interval of its change, KL from the dense model, and,
with ``--latency``, the milliseconds at batch 1 and 16 of all models of a budget and the dense one, measured in turns,
with the speed-up. A budget that a lever cannot reach has no row. ``--write`` puts the table between the lines
``<!-- table:levers -->`` and ``<!-- end:levers -->`` of files.
"""

import argparse
import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageClassification

import hf_vbp
from hf_vbp.adapters.prepared import prepare
from hf_vbp.costs.counts import count_bytes, count_macs
from hf_vbp.costs.latency import LatencyOptions, measure_latency
from hf_vbp.errors import BudgetError, LatencyError
from hf_vbp.evaluation.measures import kl_divergences, paired_interval

LEVERS: dict[str, tuple[str, ...]] = {"pruned": ("mlp",), "merged": ("tokens",), "both": ("mlp", "tokens")}
BATCHES = (1, 16)
BEGIN, END = "<!-- table:levers -->", "<!-- end:levers -->"


def pruned_models(
    prepared: Any, statistics: Any, images: Any, budgets: Sequence[float], limit: int | None
) -> Iterator[tuple[str, float, Any]]:
    """Yield the name of the lever, the budget and the result for each budget that a lever reaches."""
    for budget in budgets:
        for name, levers in LEVERS.items():
            config = hf_vbp.VBPConfig(target_macs=budget, levers=levers)
            try:
                result = hf_vbp.prune(prepared, images, config, statistics=statistics, limit=limit)
            except BudgetError as error:
                print(f"{name} at {budget}: {error}")
                continue
            yield name, budget, result


@torch.inference_mode()
def outputs(model: Any, batches: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """Return the logits of every image, ``(images, classes)``."""
    return torch.cat([model(pixel_values=batch["pixel_values"]).logits for batch in batches])


def latency_columns(models: dict[str, Any], options: argparse.Namespace) -> dict[str, dict[str, str]]:
    """Return milliseconds and speed-up of each model at each batch size; none where the machine is too noisy."""
    columns: dict[str, dict[str, str]] = {name: {} for name in models}
    for batch in BATCHES:
        name = f"ms, batch {batch}"
        conditions = LatencyOptions(batch=batch, threads=options.threads, precision=options.precision, seconds=300)
        for budget in options.macs:
            chosen = {key: model for key, model in models.items() if key == "dense" or key.endswith(f" {budget}")}
            try:
                dense, *others = measure_latency(chosen, conditions)
            except LatencyError as error:
                print(error)
                continue
            columns["dense"].setdefault(name, f"{dense['median_ms']:.1f}")
            for row in others:
                columns[row["model"]][name] = f"{row['median_ms']:.1f} ({row['speedup']:.2f}x)"
    return columns


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row for each model."""
    model = AutoModelForImageClassification.from_pretrained(options.model).eval()
    prepared = prepare(model)
    images = hf_vbp.load_images(options.calibration, model=model, limit=options.limit, seed=options.seed)
    statistics = hf_vbp.collect_statistics(prepared, images)
    statistics = hf_vbp.precompute_scores(prepared, statistics)
    models: dict[str, Any] = {"dense": model}
    described: dict[str, tuple[str, Any, Any]] = {"dense": ("dense", None, None)}
    for name, budget, result in pruned_models(prepared, statistics, images, options.macs, options.limit):
        models[f"{name} {budget}"] = result.model
        described[f"{name} {budget}"] = (name, budget, result.plan)
    held_out = hf_vbp.load_images(
        options.evaluation, model=model, limit=options.evaluation_limit, require_labels=True, purpose="evaluation"
    )
    batches = list(held_out.loader)
    labels = torch.cat([batch["labels"] for batch in batches])
    logits = {name: outputs(each, batches) for name, each in models.items()}
    right = {name: values.argmax(-1) == labels for name, values in logits.items()}
    timed = latency_columns(models, options) if options.latency else {}
    dense_macs = count_macs(model)
    rows = []
    for key, (lever, budget, plan) in described.items():
        low, high = paired_interval(right["dense"].tolist(), right[key].tolist())
        rows.append(
            {
                "lever": lever,
                "budget": "" if budget is None else budget,
                "merged per block": "" if plan is None or not plan.merged_tokens else max(plan.merged_tokens),
                "neurons removed": "" if plan is None else f"{plan.ratio:.1%}",
                "MACs": f"{count_macs(models[key]) / dense_macs:.3f}",
                "MB": f"{count_bytes(models[key]) / 1e6:.1f}",
                "top-1": f"{right[key].double().mean().item():.1%}",
                "change": "" if key == "dense" else f"{100 * low:+.1f} to {100 * high:+.1f}",
                "KL": "" if key == "dense" else f"{kl_divergences(logits['dense'], logits[key]).mean().item():.3f}",
                **timed.get(key, {}),
            }
        )
    return rows


def write(rows: Sequence[dict[str, Any]], folder: Path, files: Sequence[Path]) -> None:
    """Write the rows as CSV and as a table of Markdown, which also replaces that of the files."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with (folder / "levers.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    lines = [names, ["---"] * len(names), *([str(row.get(name, "")) for name in names] for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
    (folder / "levers.md").write_text(table, encoding="utf-8")
    print(table)
    for path in files:
        path.write_text(with_table(path.read_text(encoding="utf-8"), table), encoding="utf-8")


def with_table(text: str, table: str) -> str:
    """Return a text with a table between the two marks.

    Raises:
        SystemExit: The text does not have the marks, each once and in this order.
    """
    before, begin, rest = text.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after or END in after:
        raise SystemExit(f"Expected the lines {BEGIN} and {END} once each in the file to write to.")
    return f"{before}{begin}{table}{end}{after}"


def main() -> None:
    """Read the command line and write the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("calibration")
    parser.add_argument("evaluation")
    parser.add_argument("--macs", type=float, nargs="+", default=[0.6, 0.52, 0.45])
    parser.add_argument("--limit", type=int, help="calibration images")
    parser.add_argument("--evaluation-limit", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--latency", action="store_true")
    parser.add_argument("--threads", type=int, help="threads of --latency; by default those of the process")
    parser.add_argument("--precision", type=float, default=0.03, help="of --latency")
    parser.add_argument("--write", type=Path, nargs="+", default=[], help="files whose table is replaced")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    for path in options.write:
        # Before hours of work.
        with_table(path.read_text(encoding="utf-8"), "")
    write(run(options), options.output, options.write)


if __name__ == "__main__":
    main()

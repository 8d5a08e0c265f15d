"""What pruning, merged tokens and int8 keep and gain in ONNX Runtime: top-1, size, and latency with 1 and 2 threads.

    python -m benchmarks.deploy MODEL CALIBRATION EVALUATION --ratio 0.5 --merge-tokens 13 --output DIR

``MODEL`` is a Hub id or a folder of a classifier, ``CALIBRATION`` and ``EVALUATION`` are image folders or data sets of
the Hub. Prunes the model without training, merges tokens in a copy of the dense one, exports each to ONNX in float32
and int8, and compares every file with its PyTorch model. Each file is timed in turns with the dense one in float32, in
a fresh process, one image at a time. Writes the checkpoints, ``deploy.json`` and ``deploy.md``. ``--pruned`` names a
checkpoint that was pruned before.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hf_vbp
from hf_vbp.costs.device_name import processor_name
from hf_vbp.data.processing import load_processor
from hf_vbp.workflow.requests import DataRequest

Rows = dict[str, list[dict[str, Any]]]


def checkpoints(arguments: argparse.Namespace, folder: Path) -> dict[str, str]:
    """Return the folder of each model: dense, pruned, and with merged tokens where that is requested."""
    dense = hf_vbp.from_pretrained(arguments.model)
    processor = load_processor(arguments.model)
    found = {"dense": arguments.model}
    if arguments.pruned is None:
        images = hf_vbp.load_images(arguments.calibration, processor, model=dense, labels="none")
        result = hf_vbp.prune(dense, images, hf_vbp.VBPConfig(ratio=arguments.ratio))
        hf_vbp.save_checkpoint(result, folder / "pruned", processor=processor)
    found["pruned"] = str(arguments.pruned or folder / "pruned")
    if arguments.merge_tokens:
        hf_vbp.merge_tokens(dense, arguments.merge_tokens)
        hf_vbp.save_checkpoint(dense, folder / "merged", processor=processor)
        found["merged"] = str(folder / "merged")
    return found


def measured(
    arguments: argparse.Namespace, models: Mapping[str, str], folder: Path
) -> dict[str, list[dict[str, Any]]]:
    """Export each model in float32 and int8, and return the rows of its files."""
    found: Rows = {}
    for name, model in models.items():
        rows = hf_vbp.export_model(
            model,
            folder / f"{name}-onnx",
            quantize=["int8"],
            data=DataRequest(arguments.calibration),
            eval_data=DataRequest(arguments.evaluation, limit=arguments.limit),
            base=arguments.model,
            minimum_agreement=0.0,
            latency_seconds=arguments.seconds,
        )
        found[name] = [dict(row) for row in rows]
        print(table(found), flush=True)
    return found


def table(found: Rows) -> str:
    """Return the Markdown table of all files."""
    first = next(iter(found.values()))[0]
    threads = [one["threads"] for one in first["latency"]]
    times = [f"{number} thread{'s' if number > 1 else ''}" for number in threads]
    header = ["model", "precision", "top-1", "same answer", "difference", "MB", *times]
    lines = [f"| {' | '.join(header)} |", f"|---|---|{'---:|' * (len(header) - 2)}"]
    for name, rows in found.items():
        for row in rows:
            cells = [name, row["precision"], f"{100 * row['top1']:.1f} %", f"{100 * row['agreement']:.1f} %"]
            cells += [f"{row['max_abs_difference']:.1g}", f"{row['bytes'] / 1e6:.1f}"]
            for one in row["latency"]:
                low, high = one["speedup_interval"]
                cells.append(f"{one['median_ms']:.1f} ms, {one['speedup']:.2f}x ({low:.2f} to {high:.2f})")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("calibration")
    parser.add_argument("evaluation")
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--merge-tokens", type=int, default=0)
    parser.add_argument("--pruned", type=Path)
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    found = measured(arguments, checkpoints(arguments, arguments.output), arguments.output)
    (arguments.output / "deploy.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    (arguments.output / "deploy.md").write_text(f"{processor_name()}\n\n{table(found)}\n", encoding="utf-8")


if __name__ == "__main__":
    main()

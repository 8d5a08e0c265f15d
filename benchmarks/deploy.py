"""What pruning, merged tokens and int8 keep and gain in ONNX Runtime: top-1, size, and latency with 1 and 2 threads.

    python -m benchmarks.deploy MODEL CALIBRATION EVALUATION --ratio 0.5 --merge-tokens 13 --output DIR

``MODEL`` is a Hub id or a folder of a classifier, ``CALIBRATION`` and ``EVALUATION`` are image folders or data sets of
the Hub. Prunes the model without training, merges tokens in a copy of the dense one, exports each to ONNX in float32
and int8, and compares every file with its PyTorch model. All files are timed in turns in a fresh process, one image at
a time. Writes the checkpoints, ``deploy.json`` and ``deploy.md``; a second run to the same folder only times the files
again. ``--pruned`` names a checkpoint that was pruned before.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import hf_vbp
from hf_vbp.costs.device_name import processor_name
from hf_vbp.costs.timing import median_interval
from hf_vbp.data.processing import load_processor
from hf_vbp.evaluation.task import Task
from hf_vbp.export.formats import FORMATS
from hf_vbp.export.parity import Timing, open_in_fresh_process
from hf_vbp.export.reference import Reference
from hf_vbp.workflow.export_command import EXPORTS
from hf_vbp.workflow.requests import DataRequest

Rows = dict[str, list[dict[str, Any]]]


def checkpoints(arguments: argparse.Namespace, folder: Path) -> dict[str, str]:
    """Return the folder of each model: dense, pruned, and with merged tokens where that is requested."""
    dense = hf_vbp.from_pretrained(arguments.model)
    processor = load_processor(arguments.model)
    found = {"dense": arguments.model}
    if arguments.pruned is None and not (folder / "pruned").is_dir():
        images = hf_vbp.load_images(arguments.calibration, processor, model=dense, labels="none")
        result = hf_vbp.prune(dense, images, hf_vbp.VBPConfig(ratio=arguments.ratio))
        hf_vbp.save_checkpoint(result, folder / "pruned", processor=processor)
    found["pruned"] = str(arguments.pruned or folder / "pruned")
    if arguments.merge_tokens and (folder / "merged").is_dir():
        found["merged"] = str(folder / "merged")
    elif arguments.merge_tokens:
        hf_vbp.merge_tokens(dense, arguments.merge_tokens)
        hf_vbp.save_checkpoint(dense, folder / "merged", processor=processor)
        found["merged"] = str(folder / "merged")
    return found


def exported(arguments: argparse.Namespace, models: Mapping[str, str], folder: Path) -> Rows:
    """Export each model in float32 and int8, and return the rows of its files; a folder of an earlier run is read."""
    found: Rows = {}
    for name, model in models.items():
        target = folder / f"{name}-onnx"
        if not (target / EXPORTS).is_file():
            hf_vbp.export_model(
                model,
                target,
                quantize=["int8"],
                data=DataRequest(arguments.calibration),
                eval_data=DataRequest(arguments.evaluation, limit=arguments.limit),
                minimum_agreement=0.0,
                latency_seconds=0,
            )
        found[name] = json.loads((target / EXPORTS).read_text(encoding="utf-8"))["exports"]
    return found


def timed(found: Rows, folder: Path, seconds: float) -> list[dict[str, Any]]:
    """Return the times of all files, in turns in one fresh process, by number of threads."""
    files = [folder / f"{name}-onnx" / row["file"] for name, rows in found.items() for row in rows]
    shapes = next(iter(found.values()))[0]["inputs"]
    inputs = {name: torch.randn([1, *shape[1:]]) for name, shape in shapes.items()}
    reference = Reference(inputs, {"logits": torch.zeros(1, 1)}, Task("class", None, "model"), "random")
    with tempfile.TemporaryDirectory() as job:
        opened = open_in_fresh_process(
            FORMATS["onnx"],
            files[-1],
            reference,
            Path(job),
            others=files[:-1],
            timing=Timing(seconds=seconds),
            batches=(1,),
        )
    return opened.times


def table(found: Rows, times: list[dict[str, Any]]) -> str:
    """Return the Markdown table of all files: the speed-up is over the first one."""
    counts = [f"{one['threads']} thread{'s' if one['threads'] > 1 else ''}" for one in times]
    header = ["model", "precision", "top-1", "same answer", "difference", "MB", *counts]
    lines = [f"| {' | '.join(header)} |", f"|---|---|{'---:|' * (len(header) - 2)}"]
    rows = [(name, row) for name, of_model in found.items() for row in of_model]
    for index, (name, row) in enumerate(rows):
        cells = [name, row["precision"], f"{100 * row['top1']:.1f} %", f"{100 * row['agreement']:.1f} %"]
        cells += [f"{row['max_abs_difference']:.1g}", f"{row['bytes'] / 1e6:.1f}"]
        for one in times:
            own, first = one["seconds"][index], one["seconds"][0]
            ratios = [dense / value for dense, value in zip(first, own, strict=True)]
            low, high = median_interval(ratios)
            gain = f", {statistics.median(ratios):.2f}x ({low:.2f} to {high:.2f})" if index else ""
            cells.append(f"{1e3 * statistics.median(own):.1f} ms{gain}")
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
    found = exported(arguments, checkpoints(arguments, arguments.output), arguments.output)
    times = timed(found, arguments.output, arguments.seconds)
    text = f"{processor_name()}\n\n{table(found, times)}\n"
    print(text)
    (arguments.output / "deploy.json").write_text(
        json.dumps({"files": found, "times": times}) + "\n", encoding="utf-8"
    )
    (arguments.output / "deploy.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

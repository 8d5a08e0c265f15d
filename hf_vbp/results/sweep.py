"""``sweep.json``: the rows of a sweep, with the figures of each class, and the front of accuracy against cost.

Written next to ``sweep.csv`` with the same values. Shares are fractions between 0 and 1, never percent.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from hf_vbp.errors import CheckpointError
from hf_vbp.files.json_object import read_json_object
from hf_vbp.results.checks import find_problem
from hf_vbp.results.figures import Count, Fraction, NonNegative, Positive, PositiveCount
from hf_vbp.results.json_schema import make_schema
from hf_vbp.results.measured import without_unmeasured
from hf_vbp.results.outcome import ClassAccuracy, OutputFigures
from hf_vbp.results.versions import versions

SCHEMA_VERSION: Literal[1] = 1
SWEEP_RESULTS_NAME = "sweep.json"


class SweepRow(TypedDict):
    """One model of a sweep. The dense model has no criterion."""

    ratio: Annotated[Fraction, "share of the hidden neurons that is removed"]
    target_macs: NotRequired[Annotated[Fraction, "share of the MACs to keep that was asked for"]]
    levers: NotRequired[Literal["mlp", "tokens", "mlp,tokens"]]
    merged_tokens: NotRequired[Annotated[Count, "tokens that are merged before each block but the first"]]
    criterion: NotRequired[str]
    compensation: NotRequired[str]
    scope: NotRequired[Literal["global", "layer"]]
    minimum_width: NotRequired[Count]
    round_to: NotRequired[PositiveCount]
    options: NotRequired[Annotated[str, "options of criterion and compensation as JSON"]]
    parameters: Count
    macs: Annotated[Count, "multiply-accumulates of one image"]
    macs_share: Annotated[Fraction, "share of the MACs of the dense model"]
    bytes: Annotated[Count, "size of the weights"]
    images: PositiveCount
    top1: NotRequired[Fraction]
    top1_low: NotRequired[Fraction]
    top1_high: NotRequired[Fraction]
    top5: NotRequired[Fraction]
    ece: NotRequired[Fraction]
    agreement: NotRequired[Annotated[Fraction, "share of images with the same answer as the dense model"]]
    kl: NotRequired[NonNegative]
    knn_top1: NotRequired[Annotated[Fraction, "top-1 of a vote of the nearest labelled images"]]
    knn_top1_low: NotRequired[Fraction]
    knn_top1_high: NotRequired[Fraction]
    neighbors: NotRequired[PositiveCount]
    bank_images: NotRequired[PositiveCount]
    outputs: NotRequired[Annotated[dict[str, OutputFigures], "by the tensor of the output"]]
    output_distance: NotRequired[Annotated[NonNegative, "added over these tensors, see docs/output_distance.md"]]
    output_distance_low: NotRequired[NonNegative]
    output_distance_high: NotRequired[NonNegative]
    latency_ms: NotRequired[Positive]
    latency_share: NotRequired[Annotated[Positive, "share of the latency of the dense model, measured in turns"]]
    speedup: NotRequired[Positive]
    speedup_low: NotRequired[Positive]
    speedup_high: NotRequired[Positive]
    latency_batch: NotRequired[PositiveCount]
    latency_dtype: NotRequired[str]
    latency_threads: NotRequired[PositiveCount]
    latency_device_name: NotRequired[str]
    latency_compiled: NotRequired[Annotated[bool, "whether the models were compiled by torch.compile"]]
    classes: NotRequired[Annotated[dict[str, ClassAccuracy], "by class id"]]
    on_macs_front: NotRequired[Annotated[bool, "no model has at most its MACs and at least its accuracy"]]
    on_latency_front: NotRequired[Annotated[bool, "the same of the measured latency"]]


class SweepResults(TypedDict):
    """All rows of a sweep."""

    schema_version: Literal[1]
    model: str
    rows: list[SweepRow]
    versions: dict[str, str]


def describe_sweep(model: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the content of the file.

    Args:
        model: Name of the model.
        rows: The rows, as the CSV file holds them, the dense model among them.
    """
    dense = next(row["macs"] for row in rows if "criterion" not in row)
    names = SweepRow.__annotations__
    described = [
        {
            **{name: row[name] for name in names if name in row},
            "macs_share": row["macs"] / dense,
            **({"latency_share": 1 / row["speedup"]} if "speedup" in row else {}),
        }
        for row in rows
    ]
    return {"schema_version": SCHEMA_VERSION, "model": model, "rows": described, "versions": versions()}


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of an earlier sweep; none where there is no valid one.

    Args:
        path: The file.
    """
    if not path.is_file():
        return []
    try:
        content = read_json_object(path, "It will be written again.")
    except CheckpointError:
        return []
    return list(content["rows"]) if find_problem(content, SweepResults) is None else []


def sweep_to_json(results: Mapping[str, Any]) -> str:
    """Return the text of the file. Equal results give equal text."""
    return json.dumps(without_unmeasured(results), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def sweep_schema() -> dict[str, Any]:
    """Return the JSON schema of the file, which the package includes as ``results/sweep.schema.json``."""
    return make_schema(SweepResults, title=SWEEP_RESULTS_NAME)


if __name__ == "__main__":
    # After a change of a row: python -m hf_vbp.results.sweep
    target = Path(__file__).with_name("sweep.schema.json")
    target.write_text(json.dumps(sweep_schema(), indent=2) + "\n", encoding="utf-8")

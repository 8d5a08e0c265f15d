"""``vbp_results.json``: every measured figure. A figure that was not measured has no key.

The format (version 1) is documented in docs/results.md. Shares are fractions between 0 and 1, never percent.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict, cast

from hf_vbp._progress import one_line
from hf_vbp.errors import CheckpointError
from hf_vbp.files.layout import RESULTS
from hf_vbp.files.text import read_small_text
from hf_vbp.results.base_model import BaseModel
from hf_vbp.results.checks import find_problem, strict_json
from hf_vbp.results.data import Data
from hf_vbp.results.exports import ExportRow
from hf_vbp.results.figures import Count
from hf_vbp.results.finetuning import Finetuning
from hf_vbp.results.json_schema import make_schema
from hf_vbp.results.levers import LeverRow
from hf_vbp.results.measured import without_unmeasured
from hf_vbp.results.outcome import Costs, Evaluations, LatencyRow, OutputError, ReceiptRow
from hf_vbp.results.plan import Plan
from hf_vbp.results.statistics import Statistics

SCHEMA_VERSION: Literal[1] = 1
_LARGEST_FILE = 16 << 20


class Results(TypedDict):
    """Every measured figure of a pruned checkpoint."""

    schema_version: Literal[1]
    base_model: BaseModel
    data: NotRequired[Data]
    statistics: NotRequired[Statistics]
    plan: Plan
    merged_tokens: NotRequired[Annotated[list[Count], "number of tokens that are merged before each block"]]
    predicted: NotRequired[OutputError]
    observed: NotRequired[OutputError]
    cost: Costs
    evaluation: NotRequired[Evaluations]
    finetuning: NotRequired[Finetuning]
    latency: NotRequired[list[LatencyRow]]
    levers: NotRequired[list[LeverRow]]
    receipt: NotRequired[list[ReceiptRow]]
    exports: NotRequired[list[ExportRow]]
    versions: dict[str, str]
    command: NotRequired[str]


def to_json(results: Mapping[str, Any]) -> str:
    """Return the text of the results file. Equal results give equal text."""
    return json.dumps(without_unmeasured(results), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def load_results(directory: str | Path) -> Results:
    """Read and check the results of a checkpoint.

    Args:
        directory: The folder of the checkpoint.

    Raises:
        CheckpointError: The file is missing or is not JSON, or a field is missing, unknown or has an invalid value;
            the message names the field.

    Example:
        >>> from hf_vbp.results.record import load_results
        >>> load_results("pruned-vit")["plan"]["widths"]  # doctest: +SKIP
        [743, 648, 689]
    """
    path = Path(directory) / RESULTS
    try:
        text = read_small_text(path, _LARGEST_FILE)
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({one_line(error)}). Give the folder of a checkpoint that hf_vbp wrote."
        ) from error
    return parse_results(text, str(path))


def parse_results(text: str, name: str = RESULTS) -> Results:
    """Read and check the text of a results file.

    Args:
        text: Its content.
        name: Name of the file in messages.

    Raises:
        CheckpointError: As for :func:`load_results`.
    """
    try:
        content = strict_json(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name} cannot be read ({one_line(error)}). Save the checkpoint again.") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if type(version) is not int or version != SCHEMA_VERSION:
        given = f"version {one_line(ValueError(repr(version)), 40)}" if isinstance(content, dict) else "no object"
        raise CheckpointError(
            f"{name} is not a results file of schema version {SCHEMA_VERSION} ({given}). Read it with the hf_vbp that "
            "wrote it, or save the checkpoint again."
        )
    problem = find_problem(content, Results) or _contradiction(content["plan"])
    if problem:
        raise CheckpointError(f"{name}: {problem} Save the checkpoint again.")
    return cast(Results, content)


def _contradiction(plan: Mapping[str, Any]) -> str | None:
    dense, kept = plan["dense_widths"], plan["widths"]
    if len(dense) != len(kept):
        return f"plan.widths has {len(kept)} entries; expected {len(dense)}, as in plan.dense_widths."
    if not sum(dense):
        return "plan.dense_widths counts no hidden neurons; expected the width of every MLP."
    for index, (before, after) in enumerate(zip(dense, kept, strict=True)):
        if after > before:
            return f"plan.widths[{index}] is {after}; expected at most {before}, as in plan.dense_widths."
    return None


def schema() -> dict[str, Any]:
    """Return the JSON schema of the results file, generated from :class:`Results`.

    The package includes the same schema as ``results/results.schema.json``.
    """
    return make_schema(Results, title=RESULTS)


if __name__ == "__main__":
    # After a change of a section: python -m hf_vbp.results.record
    target = Path(__file__).with_name("results.schema.json")
    target.write_text(json.dumps(schema(), indent=2) + "\n", encoding="utf-8")

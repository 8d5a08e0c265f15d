"""``hf-vbp export``: write files for other runtimes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import typer

from hf_vbp.cli import groups
from hf_vbp.cli.console import Reporter, percent, print_json, print_lines, print_table
from hf_vbp.cli.groups import EVALUATION, OUTPUT, EvaluationOptions, SourceOptions, option, with_groups
from hf_vbp.cli.label_options import LabelledImageOptions

# Listed here and not read from hf_vbp.export, which would import torch; a test compares the two.
FORMATS = "onnx, openvino, torch-export, executorch"


@dataclass(frozen=True)
class PrecisionOptions:
    """The precisions of the exported files."""

    panel: ClassVar[str] = OUTPUT

    quantize: Annotated[
        list[str] | None,
        typer.Option(help="int8 or fp16: also write a file in this precision; may be repeated.", metavar="PRECISION"),
    ] = None
    minimum_agreement: Annotated[
        float, typer.Option(help="Least share of images for which int8 gives the answer of PyTorch.", min=0, max=1)
    ] = 0.95
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="Of torch-export: dtype of the weights. Other formats are float32."),
    ] = "auto"


@with_groups
def export(
    model: groups.Model,
    *,
    format: Annotated[str, option(OUTPUT, "--format", "-f", help=f"One of {FORMATS}.")] = "onnx",
    precision: PrecisionOptions,
    web: Annotated[
        bool, option(OUTPUT, "--web", help="Also write a page that runs the model in the browser.")
    ] = False,
    data: groups.OptionalData = None,
    images: LabelledImageOptions,
    eval_data: groups.OptionalEvalData = None,
    evaluation: EvaluationOptions,
    base: Annotated[str | None, option(EVALUATION, "--base", help="The dense model, exported and timed too.")] = None,
    base_revision: Annotated[
        str | None, option(EVALUATION, "--base-revision", help="Revision of the dense model.")
    ] = None,
    loading: SourceOptions,
    output: groups.OptionalOutput = None,
    overwrite: groups.Overwrite = False,
    json: groups.Json = False,
    quiet: groups.Quiet = False,
) -> None:
    """Write a checkpoint as files for ONNX Runtime, transformers.js, OpenVINO, torch.export or ExecuTorch.

    Each file is opened in a fresh process and compared with the PyTorch model. Without --output, the files are written
    next to the weights.
    """
    from hf_vbp.export.files import ExportOptions
    from hf_vbp.workflow.export_command import ExportRequest, run_export
    from hf_vbp.workflow.loading import Loading

    request = ExportRequest(
        model,
        output,
        format,
        ExportOptions(tuple(dict.fromkeys(precision.quantize or ())), precision.minimum_agreement),
        data=images.request(data) if data else None,
        eval_data=evaluation.request(eval_data, images) if eval_data else None,
        base=base,
        base_revision=base_revision,
        web=web,
        overwrite=overwrite,
        loading=Loading(**{**vars(loading.loading()), "dtype": precision.dtype}),
    )
    found = run_export(request, Reporter(quiet=quiet))
    if json:
        print_json(found)
    else:
        show(found)


def show(found: Mapping[str, Any]) -> None:
    """Print the table of the exported files, and how to open them."""
    from hf_vbp.results.export_table import export_cells

    rows = found["exports"]
    header, cells = export_cells(rows, narrow=True)
    source = "random values" if rows[-1]["data"] == "generated" else rows[-1]["data"]
    caption = (
        f"compared with PyTorch in fresh processes, on {rows[-1]['images']} images ({source}); same: the same answer"
    )
    print_table(f"Exported to {found['folder']}", header, cells, caption=caption)
    print_lines(_notes(found["exports"]))


def _notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    notes = []
    for row in rows:
        gains = [
            f"{measured['speedup']:.2f}x with {measured['threads']} thread{'s' if measured['threads'] > 1 else ''}"
            for measured in row.get("latency", [])
            if "speedup" in measured
        ]
        if gains:
            notes.append(f"{row['file']}: speed-up over the dense model in float32: {', '.join(gains)}.")
        quantization = row.get("quantization")
        if quantization is not None:
            share = percent(quantization["float_nodes"])
            notes.append(
                f"{row['file']}: {quantization['method']} int8, one scale per output neuron; {share} of the matrix "
                "products and convolutions compute in float."
            )
    return notes

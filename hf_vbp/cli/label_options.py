"""The options of the commands that compare a model's answers with labels."""

from dataclasses import dataclass
from typing import Annotated

import typer

from hf_vbp.cli.groups import ImageOptions


@dataclass(frozen=True)
class LabelledImageOptions(ImageOptions):
    """Which images are read and how, and how the classes of labelled images are matched with those of the model."""

    model_labels: Annotated[
        str | None,
        typer.Option(
            help="File of the model's class names in order of id, in place of its config's. prune and finetune save "
            "them in place of LABEL_0, ..."
        ),
    ] = None
    label_map: Annotated[
        str | None, typer.Option(help="File that maps classes of the data set to labels or ids of the model.")
    ] = None

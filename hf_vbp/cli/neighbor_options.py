"""The options of the commands that measure backbones by their nearest neighbors."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from hf_vbp.cli.groups import EVALUATION, ImageOptions
from hf_vbp.errors import ConfigurationError

if TYPE_CHECKING:
    from hf_vbp.workflow.requests import DataRequest


@dataclass(frozen=True)
class NeighborOptions:
    """The labelled images among which the neighbors of the evaluation images are sought."""

    panel: ClassVar[str] = EVALUATION

    bank: Annotated[
        str | None,
        typer.Option(help="For backbones without classes: labelled images for k-nearest neighbors."),
    ] = None
    bank_split: Annotated[str | None, typer.Option(help="Split of the data set in --bank.")] = None
    bank_limit: Annotated[int | None, typer.Option(help="Use at most this many images of --bank.", min=1)] = None
    neighbors: Annotated[
        int | None, typer.Option(help="Neighbors that vote.", min=1, show_default="20, or all of a smaller bank")
    ] = None

    def request(self, images: ImageOptions) -> "DataRequest | None":
        """Return the request for the bank, read as the other images are; None where none is named.

        Args:
            images: How images are read.

        Raises:
            ConfigurationError: A part of a bank is chosen that is not named.
        """
        if self.bank is None:
            given = {"--bank-split": self.bank_split, "--bank-limit": self.bank_limit}
            useless = [name for name, value in given.items() if value is not None]
            if useless:
                raise ConfigurationError(f"{' and '.join(useless)} choose images of --bank, which is not given.")
            return None
        return images.request(self.bank).for_evaluation(self.bank, self.bank_split, self.bank_limit)

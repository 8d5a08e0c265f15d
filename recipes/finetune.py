"""Runs a recipe; the same as ``hf-vbp finetune``, as a file that ``accelerate launch`` can start.

accelerate launch --config_file recipes/accelerate/one_gpu.yaml recipes/finetune.py recipes/deit-tiny/recipe.yaml
"""

import sys

import typer

from hf_vbp.cli.console import standard_error
from hf_vbp.cli.finetune import finetune
from hf_vbp.errors import HfVbpError


def main() -> None:
    """Run the recipe that the command line names."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(finetune)
    try:
        app()
    except HfVbpError as error:
        standard_error().print(f"finetune.py: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()

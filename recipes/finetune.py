"""Run a recipe: ``hf-vbp finetune`` as a file that ``accelerate launch`` can start.

accelerate launch --config_file recipes/accelerate/one_gpu.yaml recipes/finetune.py recipes/deit-tiny/recipe.yaml
"""

import typer

from hf_vbp.cli.app import run
from hf_vbp.cli.finetune import finetune
from hf_vbp.cli.groups import HELP


def main() -> None:
    """Run the recipe of the command line."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, context_settings=HELP)
    app.command()(finetune)
    run(app, "finetune.py")


if __name__ == "__main__":
    main()

"""``hf-vbp recipes``: list and copy the recipes that ship with the package."""

from pathlib import Path
from typing import Annotated

import typer

from hf_vbp.cli import groups
from hf_vbp.cli.console import print_json, print_lines, print_table


def recipes(
    names: Annotated[
        list[str] | None, typer.Argument(help="Recipes to copy; without names all are listed.", show_default=False)
    ] = None,
    output: groups.OptionalOutput = None,
    overwrite: groups.Overwrite = False,
    json: groups.Json = False,
) -> None:
    """List the recipes for fine-tuning, or copy some (all with only --output) to a folder, by default ./recipes."""
    from hf_vbp.workflow.recipes import copy_recipes, list_recipes

    found = list_recipes()
    if not names and output is None:
        if json:
            print_json([{"name": entry.name, "title": entry.title} for entry in found])
        else:
            print_table("Recipes", ("name", "|"), [(entry.name, entry.title) for entry in found])
        return
    copied = copy_recipes(names or [entry.name for entry in found], output or Path("recipes"), overwrite=overwrite)
    if json:
        print_json([str(path) for path in copied])
    else:
        print_lines(f"Copied {path}" for path in copied)

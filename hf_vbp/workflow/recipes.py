"""The recipes that ship with the package: list them, copy them."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_vbp.errors import ConfigurationError

README = "README.md"


@dataclass(frozen=True)
class ShippedRecipe:
    """A folder with a recipe or with settings for recipes.

    Attributes:
        name: Its name.
        title: The heading of its README.
        folder: Where it is.
    """

    name: str
    title: str
    folder: Path


def recipes_folder() -> Path:
    """Return the folder of the recipes: in the installed package, or at the root of a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def list_recipes() -> list[ShippedRecipe]:
    """Return all recipes in the order of their names.

    Raises:
        ConfigurationError: The installation has none.
    """
    readmes = sorted(recipes_folder().glob(f"*/{README}"))
    if not readmes:
        raise ConfigurationError(f"There are no recipes in {recipes_folder()}. Install hf_vbp again.")
    return [ShippedRecipe(path.parent.name, _title(path), path.parent) for path in readmes]


def _title(readme: Path) -> str:
    first = readme.read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ")


def copy_recipes(names: Sequence[str], directory: Path, *, overwrite: bool = False) -> list[Path]:
    """Copy recipes to a folder, each to a subfolder with its name.

    Args:
        names: Names of recipes.
        directory: The folder; created if it does not exist.
        overwrite: Whether to replace files that exist.

    Returns:
        The copied files.

    Raises:
        ConfigurationError: A name is unknown, a file exists, or the folder cannot be written.
    """
    known = {entry.name: entry for entry in list_recipes()}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigurationError(f"There is no recipe {unknown[0]!r}; expected one of {', '.join(known)}.")
    pairs = [
        (source, directory / name / source.name)
        for name in dict.fromkeys(names)
        for source in sorted(known[name].folder.iterdir())
        if source.is_file()
    ]
    existing = [target for _, target in pairs if target.exists()]
    if existing and not overwrite:
        raise ConfigurationError(f"{existing[0]} exists already; choose another folder or pass --overwrite.")
    try:
        for source, target in pairs:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    except OSError as error:
        raise ConfigurationError(f"{directory} cannot be written: {error}. Choose another folder.") from error
    return [target for _, target in pairs]

"""The names of the files of a checkpoint are those that are written, and each is spelled once."""

import ast
import re
from importlib import resources
from pathlib import Path

import hf_vbp
from hf_vbp.files import layout
from hf_vbp.modeling import modeling_hf_vbp
from tests.checkpoint.helpers import make_pruned, read_config

PACKAGE = Path(hf_vbp.__file__).parent
# Imports nothing of the package, because it travels with checkpoints.
SELF_CONTAINED = "modeling/modeling_hf_vbp.py"


def test_layout_imports_nothing() -> None:
    tree = ast.parse(Path(layout.__file__).read_text(encoding="utf-8"))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


def test_each_name_is_spelled_once() -> None:
    names = {value for name, value in vars(layout).items() if name.isupper() and isinstance(value, str)}
    names -= {layout.CARD}
    # There are patterns of all weights and of all kinds of configs.
    in_patterns = {re.escape(name) for name in names - {layout.WEIGHTS, layout.CONFIG} if "." in name}
    found = []
    for path in PACKAGE.rglob("*.py"):
        where = path.relative_to(PACKAGE).as_posix()
        if path != Path(layout.__file__) and where != SELF_CONTAINED:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant))
            texts = [node.value for node in constants if isinstance(node.value, str)]
            found += [(where, text) for text in texts if text in names or any(name in text for name in in_patterns)]
    assert found == []


def test_names_are_those_that_are_written(tmp_path: Path) -> None:
    assert Path(modeling_hf_vbp.__file__).name == layout.MODELING_FILE
    assert resources.files("hf_vbp.modeling").joinpath(layout.MODELING_HASHES).is_file()
    make_pruned().save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {layout.CONFIG, layout.WEIGHTS, layout.MODELING_FILE}
    references = read_config(tmp_path)["auto_map"].values()
    assert all(re.fullmatch(rf"{layout.MODELING_MODULE}\.\w+", reference) for reference in references)

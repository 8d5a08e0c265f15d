"""Bad input ends with exit code 2 and one sentence, and writes nothing."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.cli.helpers import run, save_images, save_tiny
from tests.conftest import make_model


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a valid checkpoint, images and statistics; tests damage copies of it."""
    from hf_vbp.calibration.collect import collect_statistics
    from hf_vbp.config.vbp_config import VBPConfig
    from hf_vbp.pruning.make_plan import make_plan

    shelf = tmp_path_factory.mktemp("shelf")
    save_tiny(shelf / "model")
    save_images(shelf / "images")
    from transformers import AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(shelf / "model")
    batch = {"pixel_values": torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
    collect_statistics(model, [batch], VBPConfig()).save(shelf / "stats.safetensors")
    collect_statistics(make_model(seed=9), [batch], VBPConfig()).save(shelf / "other.safetensors")
    fewer = {"pixel_values": batch["pixel_values"][:3]}
    collect_statistics(model, [fewer], VBPConfig.preset("paper")).save(shelf / "diagonal.safetensors")
    config = VBPConfig.preset("paper", ratio=0.5)
    make_plan(model, collect_statistics(model, [batch]), config).save(shelf / "plan.json")
    return shelf


class Case:
    """One kind of bad input: arguments made from a private copy of the shelf, and the expected message."""

    def __init__(self, name: str, says: str, make: Callable[[Path], list[Any]]) -> None:
        self.name, self.says, self.make = name, says, make


def prune(here: Path, *options: Any, model: Any = None, data: Any = None, ratio: Any = "0.5") -> list[Any]:
    budget = [] if ratio is None else ["--ratio", ratio]
    source = ["--data", here / "images" if data is None else data]
    return ["prune", here / "model" if model is None else model, *source, "--output", here / "out", *budget, *options]


def damaged(change: Callable[[Path], object]) -> Callable[[Path], list[Any]]:
    def make(here: Path) -> list[Any]:
        change(here / "model")
        return prune(here)

    return make


def with_config(**changes: Any) -> Callable[[Path], object]:
    def change(model: Path) -> None:
        path = model / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def with_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    def apply(model: Path) -> None:
        tensors = load_file(model / "model.safetensors")
        change(tensors)
        save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})

    return apply


def poison(tensors: dict[str, torch.Tensor]) -> None:
    name = next(name for name in tensors if name.endswith("intermediate.dense.weight"))
    tensors[name][0, 0] = float("nan")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def bert(model: Path) -> None:
    with_config(model_type="bert", architectures=["BertModel"])(model)


def images_that(change: Callable[[Path], object], *options: str) -> Callable[[Path], list[Any]]:
    def make(here: Path) -> list[Any]:
        change(here / "images")
        return prune(here, *options)

    return make


def keep_one(images: Path) -> None:
    for path in sorted(images.glob("*/*"))[1:]:
        path.unlink()


def clear(images: Path) -> None:
    for path in images.iterdir():
        shutil.rmtree(path)


def evaluating(change: Callable[[Path], object]) -> Callable[[Path], list[Any]]:
    def make(here: Path) -> list[Any]:
        shutil.copytree(here / "images", here / "labelled")
        change(here / "labelled")
        return prune(here, "--eval-data", here / "labelled")

    return make


def flatten(folder: Path) -> None:
    for path in sorted(folder.glob("*/*")):
        path.rename(folder / f"{path.parent.name}-{path.name}")
    for path in folder.iterdir():
        if path.is_dir():
            path.rmdir()


def occupied(here: Path) -> list[Any]:
    (here / "out").mkdir()
    (here / "out" / "thesis.txt").write_text("mine")
    return prune(here)


def occupied_and_overwriting(here: Path) -> list[Any]:
    return [*occupied(here), "--overwrite"]


def output_is_a_file(here: Path) -> list[Any]:
    (here / "out").write_text("mine")
    return prune(here)


def statistics_instead(name: str, change: Callable[[Path], object] | None = None) -> Callable[[Path], list[Any]]:
    def make(here: Path) -> list[Any]:
        if change is not None:
            change(here / name)
        options = ["--statistics", here / name, "--ratio", "0.5", "--output", here / "out"]
        return ["prune", here / "model", *options]

    return make


def into(here: Path, *arguments: Any, name: str = "c") -> list[Any]:
    return [*arguments, "--output", here / name]


def stats(here: Path, name: str) -> list[Any]:
    return into(here, "stats", here / "model", "--data", here / "images", name=name)


def merge(here: Path, *names: str) -> list[Any]:
    return into(here, "stats", "merge", *[here / name for name in names])


def data(here: Path) -> list[Any]:
    return ["--data", here / "images"]


def by_plan(here: Path, *options: Any, plan: str = "plan.json") -> list[Any]:
    return into(here, "prune", here / "model", "--plan", here / plan, *options, name="out")


def plan_of_other_statistics(here: Path) -> list[Any]:
    return by_plan(here, "--statistics", here / "diagonal.safetensors")


def snip(here: Path) -> list[Any]:
    return [*statistics_instead("diagonal.safetensors")(here), "--criterion", "snip", "--compensation", "mean"]


def plan_with_snip(here: Path) -> list[Any]:
    method = ["--criterion", "snip", "--compensation", "mean"]
    return ["plan", here / "model", "--statistics", here / GOOD, "--ratio", "0.5", *method]


def sweep(here: Path, ratios: str) -> list[Any]:
    return into(here, "sweep", "sample", "--data", "sample", "--eval-data", "sample", "--ratios", ratios)


def plan_of_another(here: Path) -> list[Any]:
    return ["plan", here / "model", "--statistics", here / "other.safetensors", "--ratio", "0.5"]


GOOD, OTHER = "stats.safetensors", "other.safetensors"

CASES = [
    Case("ratio 0", "must be between 0 and 1, got 0.0", lambda here: prune(here, ratio="0")),
    Case("ratio 1", "must be between 0 and 1, got 1.0", lambda here: prune(here, ratio="1")),
    Case("negative ratio", "must be between 0 and 1, got -0.5", lambda here: prune(here, ratio="-0.5")),
    Case("ratio in percent", "got 55.0. Give a fraction", lambda here: prune(here, ratio="55")),
    Case("ratio nan", "between 0 and 1, got nan", lambda here: prune(here, ratio="nan")),
    Case("ratio not a number", "valid number|valid float", lambda here: prune(here, ratio="half")),
    Case("no budget", "exactly one budget", lambda here: prune(here, ratio=None)),
    Case("plan and budget", "leave out --ratio", lambda here: prune(here, "--plan", here / "plan.json")),
    Case("plan and method", "leave out --preset", lambda here: by_plan(here, "--preset", "paper")),
    Case("plan without statistics", "give --statistics", lambda here: by_plan(here)),
    Case("plan with images alone", "give --statistics", lambda here: by_plan(here, *data(here))),
    Case("plan of other statistics", "other statistics than", plan_of_other_statistics),
    Case("no such plan", "nowhere", lambda here: by_plan(here, "--statistics", here / GOOD, plan="nowhere.json")),
    Case("snip without images", "hf-vbp stats .*--criterion snip.*or pass --data", snip),
    Case("plan with snip", "--criterion snip needs saliency.*hf-vbp stats", plan_with_snip),
    Case("class unknown to transformers", "'ViTForNothing'", damaged(with_config(architectures=["ViTForNothing"]))),
    Case("architectures not a name", "was saved from the class 3", damaged(with_config(architectures=[3]))),
    Case("field of a wrong type", "config", damaged(with_config(num_hidden_layers="three"))),
    Case("negative seed", "seed", lambda here: prune(here, "--seed", "-1")),
    Case("option without a value", "takes NAME=VALUE", lambda here: prune(here, "--criterion-option", "x")),
    Case("unknown option", "Unknown option 'x'", lambda here: prune(here, "--criterion-option", "x=1")),
    Case("no such module", "--import nowhere", lambda here: prune(here, "--import", "nowhere")),
    Case("too many ratios", "at most 1000", lambda here: sweep(here, "0.1:0.9:1e-9")),
    Case("two budgets", "got --ratio, --target-macs", lambda here: prune(here, "--target-macs", "0.8")),
    Case("unknown criterion", "Unknown criterion 'vari'.*variance", lambda here: prune(here, "--criterion", "vari")),
    Case("unknown compensation", "Unknown compensation", lambda here: prune(here, "--compensation", "median")),
    Case("unknown preset", "Unknown preset 'papers'", lambda here: prune(here, "--preset", "papers")),
    Case("statistics without covariances", "needs covariances", statistics_instead("diagonal.safetensors")),
    Case("unknown scope", "Unknown scope 'block'", lambda here: prune(here, "--scope", "block")),
    Case("negative floor", "minimum-width", lambda here: prune(here, "--minimum-width", "-1")),
    Case("round to 0", "round.to must be", lambda here: prune(here, "--round-to", "0")),
    Case("floor above the budget", "at most a share of", lambda here: prune(here, "--minimum-width", "40")),
    Case("parameters", "parameters: 0.1 cannot", lambda here: prune(here, "--target-parameters", "0.1", ratio=None)),
    Case("MACs", "MACs: 0.05 cannot be reached", lambda here: prune(here, "--target-macs", "0.05", ratio=None)),
    Case("unknown dtype", "Unknown dtype 'int8'", lambda here: prune(here, "--dtype", "int8")),
    Case("unknown device", "device 'abacus'", lambda here: prune(here, "--device", "abacus")),
    Case("limit 0", "limit", lambda here: prune(here, "--limit", "0")),
    Case("bad image policy", "on-bad-image", lambda here: prune(here, "--on-bad-image", "ignore")),
    Case("no such model folder", "not a folder with a checkpoint", lambda here: prune(here, model="./nowhere")),
    Case("folder without config", "has no config.json", lambda here: prune(here, model=here / "images")),
    Case("Hub model, offline", "cannot be loaded", lambda here: prune(here, model="someone/some-vit")),
    Case("config not JSON", "config", damaged(lambda model: (model / "config.json").write_text("{"))),
    Case("unknown model_type", "cannot be loaded", damaged(with_config(model_type="vitt"))),
    Case("text model", "model type 'bert', whose config describes no images", damaged(bert)),
    Case("quantized model", "quantized", damaged(with_config(quantization_config={"quant_method": "bitsandbytes"}))),
    Case("no weights", "weights", damaged(lambda model: (model / "model.safetensors").unlink())),
    Case("truncated weights", "cannot be loaded", damaged(lambda model: truncate(model / "model.safetensors"))),
    Case("weights not safetensors", "weights", damaged(lambda m: (m / "model.safetensors").write_bytes(b"x" * 99))),
    Case("NaN weights", "NaN or infinity", damaged(with_weights(poison))),
    Case("missing tensors", "missing|random", damaged(with_weights(lambda t: t.pop("classifier.weight")))),
    Case("widths for fewer MLPs", "widths", damaged(with_config(vbp={"version": 1, "widths": [10, 10]}))),
    Case("tampered widths", "config", damaged(with_config(vbp={"version": 1, "widths": [9, 9, 9]}))),
    Case("newer record", "version", damaged(with_config(vbp={"version": 7, "widths": [48, 48, 48]}))),
    Case("no processor", "image processor", damaged(lambda m: (m / "preprocessor_config.json").unlink())),
    Case("no such images", "nowhere", lambda here: prune(here, data=here / "nowhere")),
    Case("empty folder", "image", images_that(clear)),
    Case("one image", "gives 1 image, but a variance needs at least 2", images_that(keep_one)),
    Case("not an image", r"cat.1\.png", images_that(lambda images: (images / "cat/1.png").write_text("hello"))),
    Case("truncated image", r"dog.2\.png", images_that(lambda images: truncate(images / "dog/2.png"))),
    Case("Hub data set, offline", "someone/photos", lambda here: prune(here, data="someone/photos")),
    Case("no such split", "split", lambda here: prune(here, "--split", "nowhere", data="sample")),
    Case("other classes", "zebra", evaluating(lambda images: (images / "cat").rename(images / "zebra"))),
    Case("no labels", "label", evaluating(flatten)),
    Case("a label map without labels", "--label-map matches", lambda here: prune(here, "--label-map", here / GOOD)),
    Case("nothing to calibrate on", "give --data", lambda here: into(here, "prune", here / "model", "--ratio", ".5")),
    Case("no such statistics", "nothing.safetensors", statistics_instead("nothing.safetensors")),
    Case("truncated statistics", GOOD, statistics_instead(GOOD, truncate)),
    Case("statistics of another model", "weights differ", statistics_instead(OTHER)),
    Case("a checkpoint as statistics", "model.safetensors", statistics_instead("model/model.safetensors")),
    Case("output exists", "is not empty", occupied),
    Case("output is no checkpoint", r"holds thesis\.txt.*not overwritten", occupied_and_overwriting),
    Case("output is a file", "is a file", output_is_a_file),
    Case("output below a file", "not a folder", lambda here: prune(here, "--output", here / GOOD / "x")),
    Case("stats over a file", "exists already", lambda here: stats(here, GOOD)),
    Case("stats without a folder", "does not exist", lambda here: stats(here, "a/b")),
    Case("merging one", "two files or more", lambda here: merge(here, GOOD)),
    Case("merging unlike", "differs", lambda here: merge(here, GOOD, OTHER)),
    Case("merging twice the same", "both", lambda here: merge(here, GOOD, GOOD)),
    Case(
        "showing no statistics",
        "is JSON, not a file of statistics",
        lambda here: ["stats", "show", here / "model/config.json"],
    ),
    Case("plan of another model", "weights differ", plan_of_another),
    Case("ratios malformed", "start:stop:step", lambda here: sweep(here, "a:b")),
    Case("ratios outside", "between 0 and 1", lambda here: sweep(here, "0.5,1.5")),
    Case("no such command", "No such command", lambda here: ["prunee", "sample"]),
    Case("no such option", "No such option", lambda here: prune(here, "--ration", "0.5")),
]


def test_there_are_at_least_forty_kinds() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 40


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input(
    case: Case, shelf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    shutil.copytree(shelf, here)
    arguments = case.make(here)
    before = sorted(path for path in here.rglob("*"))
    ran = run(arguments, capfd, monkeypatch)
    said = " ".join(ran.err.split())
    assert ran.code == 2, said
    assert ran.out == ""
    assert "Traceback" not in said
    assert re.search(case.says, said), said
    assert sorted(path for path in here.rglob("*")) == before


def test_an_error_in_a_users_module_names_the_module(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "module_with_a_fault.py").write_text("raise ValueError('boom')")
    monkeypatch.syspath_prepend(tmp_path)
    ran = run(["inspect", "sample", "--import", "module_with_a_fault"], capfd, monkeypatch)
    assert ran.code == 2
    said = " ".join(ran.err.split())
    assert "hf-vbp: --import module_with_a_fault: the module raised ValueError: boom. Correct this code" in said
    assert "unexpected" not in said

"""Evaluation on the command line of models that are no classifiers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

import hf_vbp as library
from hf_vbp.cli.evaluate import show
from hf_vbp.results.named_figures import figure_rows
from hf_vbp.results.record import load_results
from tests.data.helpers import shards as make_shards

from .helpers import run, save_images, save_tiny

Command = Callable[..., Any]


@pytest.fixture
def hf_vbp(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command that must succeed."""

    def command(*arguments: Any) -> Any:
        ran = run(list(arguments), capfd, monkeypatch)
        assert ran.code == 0, ran.err
        return ran

    return command


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command that must be refused; gives its message."""

    def command(*arguments: Any) -> str:
        ran = run(list(arguments), capfd, monkeypatch)
        assert ran.code == 2
        return " ".join(ran.err.split())

    return command


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "backbone", "vit-backbone")


def flat(folder: Path, images: int = 6) -> Path:
    """Images without labels."""
    save_images(folder, images, ("ant",))
    for path in (folder / "ant").iterdir():
        path.rename(folder / path.name)
    (folder / "ant").rmdir()
    return folder


def hits(model: Any, bank: Any, queries: Any) -> float:
    """The share of images whose nearest neighbor in the bank has their class."""

    def read(images: Any) -> tuple[torch.Tensor, list[str]]:
        with torch.no_grad():
            found = [(model(batch["pixel_values"]).pooler_output.double(), batch["labels"]) for batch in images]
        names = [images.class_names[label] for _, labels in found for label in labels.tolist()]
        return torch.cat([features for features, _ in found]), names

    (known, names), (asked, own) = read(bank), read(queries)
    right = 0
    for feature, name in zip(asked, own, strict=True):
        cosines = (known @ feature) / (known.norm(dim=1) * feature.norm())
        right += names[int(cosines.argmax())] == name
    return right / len(own)


def test_a_backbone_is_measured_by_its_neighbors_before_and_after(
    hf_vbp: Command,
    backbone: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bank = save_images(tmp_path / "bank", 4)
    # Only some of the classes, so that numbering them alone would give other ids.
    queries = save_images(tmp_path / "queries", 3, ("cat", "dog"), seed=1)
    out = tmp_path / "out"
    options = ["--eval-data", queries, "--neighbors", 1, "--ratio", "0.5", "--output", out]
    shown = hf_vbp("prune", backbone, "--data", bank, *options).out
    results = load_results(out)
    assert results["data"]["bank"]["images"] == 20
    evaluation = results["evaluation"]
    models = {
        name: library.from_pretrained(folder, auto_class=AutoModel)
        for name, folder in (("dense", backbone), ("pruned", out))
    }
    for name, model in models.items():
        read = [library.load_images(folder, model=model, labels="data") for folder in (bank, queries)]
        assert evaluation[name]["knn"]["top1"] == pytest.approx(hits(model, *read))  # type: ignore[literal-required]
    change = evaluation["pruned"]["knn"]["change"]
    assert change == pytest.approx(evaluation["pruned"]["knn"]["top1"] - evaluation["dense"]["knn"]["top1"])
    assert "k-NN top-1, 1 neighbors of 20" in shown
    assert "1 - cosine" in shown
    options = ["--data", queries, "--bank", bank, "--neighbors", 1]
    again = json.loads(hf_vbp("evaluate", out, *options, "--base", backbone, "--json").out)
    assert again["model"] == evaluation["pruned"]
    alone = json.loads(hf_vbp("evaluate", out, *options, "--json").out)
    assert alone["model"]["knn"]["top1"] == again["model"]["knn"]["top1"]
    assert "outputs" not in alone["model"]
    capfd.readouterr()
    monkeypatch.setenv("COLUMNS", "80")
    paths = {name: f"/a/long/path/of/a/checkpoint/with/many/folders/{name}/checkpoint" for name in ("base", "model")}
    show(again, paths)
    lines = capfd.readouterr().out.splitlines()
    assert lines[:2] == [f"{name}: {path}" for name, path in paths.items()]
    for _, *cells in figure_rows(again, ["base", "model"]):
        assert any(all(cell in line for cell in cells if cell) for line in lines), cells


def test_without_labels_a_backbone_is_compared_with_the_dense_one(
    hf_vbp: Command, refused: Command, backbone: Path, tmp_path: Path
) -> None:
    images, labelled = flat(tmp_path / "flat"), save_images(tmp_path / "labelled", 2)
    for number, (data, queries) in enumerate(((images, labelled), (labelled, images), (images, images))):
        out = tmp_path / f"out{number}"
        hf_vbp("prune", backbone, "--data", data, "--eval-data", queries, "--ratio", "0.5", "--output", out)
        found = load_results(out)["evaluation"]["pruned"]
        assert set(found) == {"images", "outputs", "output_distance"}
        assert set(found["outputs"]["pooler_output"]) == {
            "kind",
            "neighbor_kl",
            "neighbor_agreement",
            "cosine_distance",
        }
    message = refused("evaluate", backbone, "--data", labelled, "--bank", images)
    assert "flat has no labels, which a bank needs" in message
    message = refused("evaluate", backbone, "--data", images, "--bank", labelled)
    assert "flat has no labels, which k-nearest neighbors need" in message
    assert "nothing can be measured without another model" in refused("evaluate", backbone, "--data", images)


def test_shards_whose_classes_are_not_known_beforehand_are_no_bank_but_can_be_compared(
    hf_vbp: Command, refused: Command, backbone: Path, tmp_path: Path
) -> None:
    shards, out = make_shards(tmp_path / "shards"), tmp_path / "out"
    hf_vbp("prune", backbone, "--data", shards, "--eval-data", shards, "--ratio", "0.5", "--output", out)
    assert set(load_results(out)["evaluation"]["pruned"]) == {"images", "outputs", "output_distance"}
    message = refused("evaluate", backbone, "--data", shards, "--bank", shards)
    assert "are not known before it is read" in message
    # Names of the bank match those of the shards.
    names = save_images(tmp_path / "bank", 2, ("cat", "dog", "owl"))
    named = make_shards(tmp_path / "named")
    found = json.loads(hf_vbp("evaluate", backbone, "--data", named, "--bank", names, "--json").out)
    assert found["model"]["knn"]["bank_images"] == 6


def test_a_backbone_that_was_published_without_a_pooler_equals_itself(hf_vbp: Command, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    backbone, images, out = save_tiny(tmp_path / "model", "vit-backbone"), flat(tmp_path / "images"), tmp_path / "out"
    weights = load_file(backbone / "model.safetensors")
    kept = {name: values for name, values in weights.items() if not name.startswith("pooler.")}
    assert len(kept) == len(weights) - 2
    save_file(kept, backbone / "model.safetensors", metadata={"format": "pt"})
    hf_vbp("prune", backbone, "--data", images, "--eval-data", images, "--ratio", "0.5", "--output", out)
    for other in (backbone, out):
        found = json.loads(hf_vbp("evaluate", other, "--data", images, "--base", backbone, "--json").out)["model"]
        # The class token: a pooler of random weights would differ in every process.
        figures = found["outputs"]["last_hidden_state"]
        if other == out:
            assert figures == load_results(out)["evaluation"]["pruned"]["outputs"]["last_hidden_state"]
        else:
            assert (figures["cosine_distance"]["mean"], figures["neighbor_agreement"]["mean"]) == (0, 1)


def test_depth_is_compared_by_its_variance(hf_vbp: Command, refused: Command, tmp_path: Path) -> None:
    from transformers import GLPNConfig, GLPNForDepthEstimation, ViTImageProcessorPil

    torch.manual_seed(0)
    config = GLPNConfig(
        hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 1, 1], decoder_hidden_size=8
    )
    GLPNForDepthEstimation(config).save_pretrained(tmp_path / "depth")
    ViTImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "depth")
    images, out = save_images(tmp_path / "images", 1), tmp_path / "out"
    # Labels of the folders are not read: nothing is done with them.
    ran = hf_vbp("prune", tmp_path / "depth", "--data", images, "--eval-data", images, "--ratio", "0.3", "-o", out)
    (part,) = load_results(out)["evaluation"]["pruned"]["outputs"].values()
    assert part["kind"] == "depth"
    assert part["variance_share"]["mean"] > 0
    # An error over a variance may exceed 1, so it is not shown as a percentage.
    assert "%" not in next(line for line in ran.out.splitlines() if "squared error over the variance" in line)
    assert "nothing can be measured without another model" in refused("evaluate", out, "--data", images)
    message = refused("evaluate", out, "--data", images, "--base", out, "--bank", images)
    assert "--bank and --neighbors are for backbones" in message


def test_options_without_a_use_are_refused(refused: Command, backbone: Path, tmp_path: Path) -> None:
    images, out = save_images(tmp_path / "images", 2), tmp_path / "out"
    prune = ["--data", images, "--ratio", "0.5", "--output", out]
    assert "need images to evaluate on: give --eval-data" in refused("prune", backbone, *prune, "--bank", images)
    names = tmp_path / "names.txt"
    names.write_text("ant")
    message = refused("prune", backbone, *prune, "--eval-data", images, "--model-labels", names)
    assert "has no classes of its own: leave out --model-labels" in message
    classifier = save_tiny(tmp_path / "classifier")
    message = refused("prune", classifier, *prune, "--eval-data", images, "--neighbors", 3)
    assert "has the class ViTForImageClassification, which gives logits (logits): --bank and --neighbors" in message
    several = save_tiny(tmp_path / "several", problem_type="multi_label_classification")
    assert "name the dense model with --base" in refused("evaluate", several, "--data", images)
    message = refused("prune", backbone, *prune, "--eval-data", images, "--neighbors", 11)
    assert "neighbors is 11, but the bank has 10 images" in message
    assert not out.exists()

"""The recipes for ImageNet, run for two steps on input of its shape: folders named by WordNet id, and the Hub."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import hf_vbp
from hf_vbp.data.labels import imagenet_wordnet_ids
from hf_vbp.results.record import load_results
from hf_vbp.workflow.finetune.recipe import load_recipe
from tests.data.dataset_hub import SHA, DatasetHub
from tests.data.helpers import picture
from tests.workflow.finetune.helpers import make_dense, make_pruned

ROOT = Path(__file__).parents[3]
RECIPES = ("deit-tiny", "deit-small", "deit-base", "vit-base")
# Mixed precision and worker processes are as shipped.
ON_CPU = ("training.max_steps=2", "training.use_cpu=true", "training.logging_steps=1")
CLASSES = tuple(f"class {number}, synonym {number}" for number in range(1000))
# A folder with these classes, and their labels in the model: the position among all 1,000, not among the folders.
SHOWN = (0, 7, 388, 999)
CHILD = """
import datasets, sys
datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0  # 5 seconds after every shuffled stream
from hf_vbp.cli import main
main()
"""


def recipe_files(name: str, data: str) -> list[str]:
    return [str(ROOT / "recipes" / name / "recipe.yaml"), str(ROOT / "recipes" / "data" / f"imagenet-{data}.yaml")]


def finetune(name: str, data: str, work: Path, *overrides: str, environment: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, "finetune", *recipe_files(name, data), *ON_CPU, *overrides, "--json"],
        env={**environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        cwd=work,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results: dict[str, Any] = json.loads(done.stdout)
    assert results["finetuning"]["steps"] == 2
    assert results["finetuning"]["recipe"] == name
    assert {"loss", "hard_loss", "soft_loss"} <= results["finetuning"]["per_epoch"][0].keys()
    assert results == load_results(work / f"{name}-recovered")
    return results


@pytest.fixture
def work(tmp_path: Path) -> Path:
    labels = dict(enumerate(CLASSES))
    options = {"num_labels": 1000, "id2label": labels, "label2id": {name: index for index, name in labels.items()}}
    make_pruned(tmp_path / "pruned", make_dense(tmp_path / "dense", **options))
    return tmp_path


@pytest.mark.parametrize("data", ["folder", "hub"])
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_for_imagenet_accepts_both_kinds_of_data(name: str, data: str) -> None:
    recipe = load_recipe([*recipe_files(name, data), *ON_CPU])
    streamed = data == "hub"
    assert recipe.data.evaluation is not None
    for request in (recipe.data.train, recipe.data.evaluation):
        assert (request.source == "ILSVRC/imagenet-1k", request.streaming) == (streamed, streamed)
    assert recipe.data.evaluation.batch_size == 64
    assert recipe.arguments().num_train_epochs == 10


@pytest.mark.processes
def test_folders_named_by_wordnet_id(work: Path) -> None:
    for part, each in (("train", 5), ("val", 2)):
        for index in SHOWN:
            folder = work / "imagenet" / part / imagenet_wordnet_ids()[index]
            folder.mkdir(parents=True)
            for number in range(each):
                picture(10 * number, (40, 36)).save(folder / f"{folder.name}_{number}.JPEG")
    overrides = ("model=pruned", "teacher=dense", "training.per_device_train_batch_size=8")
    results = finetune("deit-tiny", "folder", work, *overrides, environment=dict(os.environ))
    assert results["data"]["finetuning"]["images"] == 20
    assert {results["evaluation"][name]["images"] for name in ("dense", "pruned", "finetuned")} == {8}
    assert hf_vbp.from_pretrained(work / "deit-tiny-recovered").config.vbp["widths"]


def imagenet_on_the_hub() -> dict[str, bytes]:
    """The layout of the data set on the Hub: parquet shards, and a card that declares classes and numbers."""
    import datasets

    kind = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    files = {}
    for split, shards, each in (("train", 2, 8), ("validation", 1, 8)):
        for shard in range(shards):
            rows = [{"image": picture(n, (40, 36)), "label": SHOWN[n % len(SHOWN)]} for n in range(each)]
            buffer = io.BytesIO()
            datasets.Dataset.from_list(rows, features=kind).to_parquet(buffer)
            files[f"data/{split}-{shard:05d}-of-{shards:05d}.parquet"] = buffer.getvalue()
    features = kind._to_yaml_list()
    splits = [{"name": "train", "num_examples": 16}, {"name": "validation", "num_examples": 8}]
    patterns = [{"split": split, "path": f"data/{split}-*"} for split in ("train", "validation")]
    card = {
        "dataset_info": {"features": features, "splits": [{**split, "num_bytes": 1} for split in splits]},
        "configs": [{"config_name": "default", "data_files": patterns}],
    }
    return {"README.md": f"---\n{json.dumps(card)}\n---\n".encode(), **files}


@pytest.mark.processes
def test_the_data_set_of_the_hub_as_a_stream(work: Path) -> None:
    overrides = ("model=pruned", "teacher=dense", "training.per_device_train_batch_size=8")
    with DatasetHub({"ILSVRC/imagenet-1k": imagenet_on_the_hub()}) as hub:
        results = finetune("deit-base", "hub", work, *overrides, environment=hub.environment(work / "home"))
    described = results["data"]["finetuning"]
    expected = {"source": "ILSVRC/imagenet-1k", "kind": "hub", "split": "train", "revision": SHA, "images": 16}
    assert expected.items() <= described.items()
    assert results["data"]["evaluation"]["split"] == "validation"
    assert results["evaluation"]["finetuned"]["images"] == 8
    assert results["finetuning"]["epochs"] == 1


@pytest.mark.real
@pytest.mark.slow
def test_deit_tiny_on_photographs(real_assets: Path, tmp_path: Path) -> None:
    (tmp_path / "imagenet").mkdir()
    (tmp_path / "imagenet" / "train").symlink_to(real_assets / "nips17" / "calibration")
    (tmp_path / "imagenet" / "val").symlink_to(real_assets / "nips17" / "validation")
    dense = str(real_assets / "deit-tiny")
    options = ("--limit", "64", "--ratio", "0.45", "--criterion", "variance", "--compensation", "mean", "--quiet")
    prune = ["prune", dense, "--data", "imagenet/train", *options, "--output", "deit-tiny-pruned"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "hf_vbp", *prune], cwd=tmp_path, env=environment, check=True, timeout=300)
    overrides = (f"teacher={dense}", "training.per_device_train_batch_size=8", "data.evaluation.limit=32")
    results = finetune("deit-tiny", "folder", tmp_path, *overrides, environment=environment)
    measured = {name: results["evaluation"][name]["top1"] for name in ("dense", "pruned", "finetuned")}
    assert measured["dense"] > 0.7
    assert measured["dense"] > measured["pruned"] > 0.3
    assert measured["finetuned"] > 0.3

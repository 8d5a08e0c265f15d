"""Data sets over real HTTP, in one child process: the client freezes its endpoint when it is imported."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.data.dataset_hub import SHA, DatasetHub
from tests.data.helpers import dataset

CARD = b"""---
configs:
- config_name: small
  data_files:
  - split: train
    path: small/train-*
  - split: validation
    path: small/validation-*
- config_name: other
  data_files: other/*
---
"""

CHILD = """
import datasets, json, sys
datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0  # 5 seconds after every shuffled stream
from hf_vbp import HfVbpError, load_images
from tests.data.helpers import ID2LABEL, labels, numbers, processor
for options in json.load(sys.stdin):
    try:
        data = load_images(processor=processor(), id2label=ID2LABEL, **options)
        print(json.dumps({"numbers": numbers(data), "labels": labels(data), "provenance": data.provenance}))
    except HfVbpError as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))
"""

ASKED = (
    {"source": "alice/pets:small"},
    {"source": "alice/pets:small", "streaming": True, "purpose": "evaluation", "limit": 4},
    {"source": "alice/pets"},
    {"source": "alice/nope"},
    {"source": "alice/pets:small", "split": "test"},
)


def parquet(count: int) -> bytes:
    buffer = io.BytesIO()
    dataset(count).to_parquet(buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    files = {
        "README.md": CARD,
        "small/train-0.parquet": parquet(12),
        "small/validation-0.parquet": parquet(6),
        "other/test-0.parquet": parquet(3),
    }
    with DatasetHub({"alice/pets": files}) as hub:
        done = subprocess.run(
            [sys.executable, "-c", CHILD],
            input=json.dumps(ASKED),
            env=hub.environment(tmp_path_factory.mktemp("home")),
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_configuration_is_read_with_its_commit_on_record(answers: list[dict[str, Any]]) -> None:
    found = answers[0]
    assert found["numbers"] == list(range(12))
    assert found["labels"] == [1, 2, 0] * 4
    assert {key: found["provenance"][key] for key in ("source", "split", "revision", "kind")} == {
        "source": "alice/pets:small",
        "split": "train",
        "revision": SHA,
        "kind": "hub",
    }


def test_a_stream_takes_the_split_for_evaluation(answers: list[dict[str, Any]]) -> None:
    found = answers[1]
    assert len(set(found["numbers"])) == 4
    assert max(found["numbers"]) < 6
    assert (found["provenance"]["split"], found["provenance"]["revision"]) == ("validation", SHA)


@pytest.mark.parametrize(
    ("position", "message"),
    [
        (2, "with no configuration (Config name is missing. Please pick one among the available configs: ['small', "),
        (3, "There is no data set alice/nope on the Hub, or you have no access to it"),
        (4, "has no split 'test': its splits are train, validation"),
    ],
)
def test_missing_data_sets_are_reported(answers: list[dict[str, Any]], position: int, message: str) -> None:
    assert answers[position]["error"] == "DataError"
    assert message in answers[position]["message"]

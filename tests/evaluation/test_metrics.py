"""The metrics of the evaluate library: no download, batch by batch, and over processes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import evaluate
import pytest
import torch

from hf_vbp.errors import ConfigurationError
from hf_vbp.evaluation.measures import kl_divergences, top_classes, wilson_interval
from hf_vbp.evaluation.metrics import Agreement, KLDivergence, MeanLoss, Top1Accuracy, Top5Accuracy
from hf_vbp.evaluation.models import evaluate_models
from tests.conftest import make_model


def logits(seed: int, classes: int = 7) -> torch.Tensor:
    return torch.randn(20, classes, generator=torch.Generator().manual_seed(seed))


def test_they_are_metrics_and_agree_with_evaluate_models(tmp_path: Path, batches: Any) -> None:
    dense, other = make_model(num_labels=7), make_model(seed=1, num_labels=7)
    found = evaluate_models({"dense": dense, "other": other}, batches)["other"]
    metrics = [metric(cache_dir=str(tmp_path)) for metric in (Top1Accuracy, Top5Accuracy, Agreement, KLDivergence)]
    assert all(isinstance(metric, evaluate.Metric) for metric in metrics)
    for batch in batches:
        with torch.inference_mode():
            base, out = (model(pixel_values=batch["pixel_values"]).logits for model in (dense, other))
        metrics[0].add_batch(predictions=out.argmax(-1), references=batch["labels"])
        metrics[1].add_batch(predictions=top_classes(out, 5), references=batch["labels"])
        metrics[2].add_batch(predictions=out.argmax(-1), references=base.argmax(-1))
        metrics[3].add_batch(predictions=kl_divergences(base, out))
    top1, top5, agreement, kl = (metric.compute() for metric in metrics)
    assert (top1["top1"], tuple(top1["top1_interval"]), top1["images"]) == (found.top1, found.top1_interval, 30)
    assert top5["top5"] == found.top5
    assert agreement["agreement"] == found.agreement
    assert kl["kl"] == pytest.approx(found.kl, rel=1e-6)


def test_intervals_come_with_the_shares(tmp_path: Path) -> None:
    best = top_classes(logits(0), 5)
    found = Top5Accuracy(cache_dir=str(tmp_path)).compute(predictions=best, references=[0] * 20)
    assert found["top5"] == sum(0 in row for row in best.tolist()) / 20
    assert tuple(found["top5_interval"]) == wilson_interval(round(found["top5"] * 20), 20)


def test_they_combine_like_others(tmp_path: Path) -> None:
    both = evaluate.combine([Top1Accuracy(cache_dir=str(tmp_path)), Agreement(cache_dir=str(tmp_path))])
    assert both.compute(predictions=[0, 1], references=[0, 0])["agreement"] == 0.5


PROCESS = """
import sys
import torch
from hf_vbp.evaluation import KLDivergence, kl_divergences
rank, folder = int(sys.argv[1]), sys.argv[2]
metric = KLDivergence(num_process=2, process_id=rank, experiment_id="kl", cache_dir=folder, timeout=60)
generator = torch.Generator().manual_seed(0)
p, q = torch.randn(2, 9, 4, generator=generator)
part = slice(0, 5) if rank == 0 else slice(5, 9)
found = metric.compute(predictions=kl_divergences(p[part], q[part]))
if rank == 0:
    print(found["kl"], found["images"])
"""


@pytest.mark.processes
def test_two_processes_give_one_figure(tmp_path: Path) -> None:
    started = [
        subprocess.Popen([sys.executable, "-c", PROCESS, str(rank), str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    p, q = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0))
    kl, count = outputs[0].split()
    assert float(kl) == pytest.approx(float(kl_divergences(p, q).mean()), rel=1e-9)
    assert int(count) == 9


def test_several_processes_need_a_folder_of_theirs() -> None:
    with pytest.raises(ConfigurationError, match="num_process is 2, but no cache_dir is given"):
        Top1Accuracy(num_process=2, process_id=0)


CACHE = """
import json, os, sys
import torch
from hf_vbp.evaluation import Agreement, KLDivergence, MeanLoss, Top1Accuracy, Top5Accuracy
top1 = Top1Accuracy()
top1.add_batch(predictions=[0, 1], references=[0, 0])
left = [Top5Accuracy(), KLDivergence(), Agreement(), MeanLoss()]
left[0].add_batch(predictions=[[0, 1, 2]], references=[2])
left[1].add_batch(predictions=[0.5])
print(top1.compute()["top1"], flush=True)
os._exit(1)  # the other metrics are never computed, as in a run that is interrupted
"""


def test_nothing_is_left_in_the_users_cache(tmp_path: Path) -> None:
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    temporary.mkdir()
    own = {"HOME": str(home), "HF_HOME": str(home / "hf"), "TMPDIR": str(temporary)}
    done = subprocess.run(
        [sys.executable, "-c", CACHE], env={**os.environ, **own}, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("0.5\n", 1), done.stderr
    left = [path for root in (home, temporary) for path in root.rglob("*") if path.is_file()]
    assert [path for path in left if path.suffix in (".arrow", ".lock")] == []
    assert not (home / "hf" / "metrics").exists()


def test_a_mean_does_not_depend_on_the_order() -> None:
    values = [1e16, 1.0, -1e16, 1.0]
    assert (
        MeanLoss().compute(predictions=values)["loss"] == MeanLoss().compute(predictions=values[::-1])["loss"] == 0.5
    )

"""The metrics of the evaluate library: no download, batch by batch, and over processes."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import evaluate
import pytest
import torch

from hf_vbp.evaluation.measures import kl_divergences, wilson_interval
from hf_vbp.evaluation.metrics import Agreement, KLDivergence, Top1Accuracy, Top5Accuracy
from hf_vbp.evaluation.models import evaluate_models
from tests.conftest import make_model


def logits(seed: int, classes: int = 7) -> torch.Tensor:
    return torch.randn(20, classes, generator=torch.Generator().manual_seed(seed))


def test_they_are_metrics_and_give_what_evaluate_models_gives(tmp_path: Path, batches: Any) -> None:
    dense, other = make_model(num_labels=7), make_model(seed=1, num_labels=7)
    found = evaluate_models({"dense": dense, "other": other}, batches)["other"]
    metrics = [metric(cache_dir=str(tmp_path)) for metric in (Top1Accuracy, Top5Accuracy, Agreement, KLDivergence)]
    assert all(isinstance(metric, evaluate.Metric) for metric in metrics)
    for batch in batches:
        with torch.inference_mode():
            base, out = (model(pixel_values=batch["pixel_values"]).logits for model in (dense, other))
        metrics[0].add_batch(predictions=out.argmax(-1), references=batch["labels"])
        metrics[1].add_batch(predictions=out.numpy(), references=batch["labels"])
        metrics[2].add_batch(predictions=out.argmax(-1), references=base.argmax(-1))
        metrics[3].add_batch(predictions=out.numpy(), references=base.numpy())
    top1, top5, agreement, kl = (metric.compute() for metric in metrics)
    assert (top1["top1"], tuple(top1["top1_interval"]), top1["images"]) == (found.top1, found.top1_interval, 30)
    assert top5["top5"] == found.top5
    assert agreement["agreement"] == found.agreement
    assert kl["kl"] == pytest.approx(found.kl, rel=1e-6)


def test_intervals_come_with_the_shares(tmp_path: Path) -> None:
    found = Top5Accuracy(cache_dir=str(tmp_path)).compute(predictions=logits(0).numpy(), references=[0] * 20)
    assert tuple(found["top5_interval"]) == wilson_interval(round(found["top5"] * 20), 20)


def test_they_combine_like_others(tmp_path: Path) -> None:
    both = evaluate.combine([Top1Accuracy(cache_dir=str(tmp_path)), Agreement(cache_dir=str(tmp_path))])
    assert both.compute(predictions=[0, 1], references=[0, 0])["agreement"] == 0.5


PROCESS = """
import sys
import torch
from hf_vbp.evaluation import KLDivergence
rank, folder = int(sys.argv[1]), sys.argv[2]
metric = KLDivergence(num_process=2, process_id=rank, experiment_id="kl", cache_dir=folder, timeout=60)
generator = torch.Generator().manual_seed(0)
p, q = torch.randn(2, 9, 4, generator=generator)
part = slice(0, 5) if rank == 0 else slice(5, 9)
found = metric.compute(predictions=q[part].numpy(), references=p[part].numpy())
if rank == 0:
    print(found["kl"], found["images"])
"""


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

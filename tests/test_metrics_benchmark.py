"""The benchmarks of output metrics and of nearest neighbors, on a tiny model."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessor

from benchmarks import metrics, nearest_neighbors
from hf_vbp.adapters.prepared import prepare
from hf_vbp.calibration.collect import collect_statistics
from hf_vbp.config.requirements import Requirements
from hf_vbp.output_distance import ImageNoise
from tests.calibration.helpers import images, in_batches
from tests.conftest import make_model

pytestmark = pytest.mark.processes


def test_labels_drawn_once_give_the_statistics_of_the_library() -> None:
    prepared, batches = prepare(make_model()), in_batches(images(6), 4)
    (found,) = metrics.gathered(prepared, batches, [metrics.Variant("labels", 1)], [3]).values()
    expected = collect_statistics(
        prepared, batches, Requirements(covariances=True, output_metric=True, token_weights=True), seed=3
    )
    for ours, theirs in zip(found.sites, expected.sites, strict=True):
        torch.testing.assert_close(ours.metric, theirs.metric, rtol=1e-4, atol=1e-10)
        assert ours.weighted is not None
        assert theirs.weighted is not None
        torch.testing.assert_close(ours.weighted.comoment, theirs.weighted.comoment, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours.moments.comoment, theirs.moments.comoment)


@pytest.mark.parametrize("kind", ["labels", "logits", "neighbors"])
def test_many_cotangents_have_the_second_derivative_of_the_distance(kind: str) -> None:
    torch.manual_seed(0)
    logits, features = torch.randn(1, 4, requires_grad=True), torch.randn(1, 3, requires_grad=True)
    others = torch.nn.functional.normalize(torch.randn(5, 3), dim=1)
    bank = metrics.Neighbors(metrics.NeighborBank(others, (7, 8, 9, 10, 11)), temperature=0.5)
    values = features if kind == "neighbors" else logits

    def distance(at: torch.Tensor) -> torch.Tensor:
        def scores(x: torch.Tensor) -> torch.Tensor:
            return x if kind != "neighbors" else torch.nn.functional.normalize(x, dim=1) @ others.T / 0.5

        p = scores(values.detach()).log_softmax(1)
        return (p.exp() * (p - scores(at).log_softmax(1))).sum()

    size = values.shape[1]
    expected = torch.autograd.functional.hessian(distance, values.detach()).reshape(size, size)
    total = torch.zeros(size, size)
    for number in range(3000):
        scalar = metrics.cotangent(kind, logits, features, bank, range(1), number)
        (gradient,) = torch.autograd.grad(scalar, values)
        total += gradient.T @ gradient / 3000
    torch.testing.assert_close(total, expected, rtol=0.15, atol=0.05 * float(expected.abs().max()))


def test_noise_of_kinds_and_draws_is_independent() -> None:
    streams = [ImageNoise(0, [0], stream=metrics.KINDS.index(kind)) for kind in ("logits", "neighbors")]
    first, second = (noise.at(torch.ones(1, 1, dtype=torch.bool), 4000)[0, 0] for noise in streams)
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.06


def test_the_mean_of_cotangents_weighs_tokens_by_the_root_of_the_mean_square() -> None:
    one = metrics.Gradients([torch.eye(2)], [torch.tensor([[9.0, 1.0]])])
    other = metrics.Gradients([3 * torch.eye(2)], [torch.tensor([[23.0, 1.0]])])
    mean = metrics.Gradients.mean([one, other])
    assert torch.equal(mean.metrics[0], 2 * torch.eye(2))
    # The norms are 4 and 1, with the mean 2.5.
    assert mean.token_weights()[0].tolist() == [pytest.approx([0.5 + 0.8, 0.5 + 0.2])]


def test_the_interval_has_the_spread_of_images_and_of_seeds() -> None:
    reference = [torch.zeros(4), torch.zeros(4)]
    difference, interval = metrics.compared([torch.ones(4), torch.ones(4)], reference)
    assert (difference, interval) == (1.0, 0.0)
    by_seed = metrics.compared([torch.zeros(4), torch.full((4,), 2.0)], reference)
    assert by_seed == pytest.approx((1.0, 1.96))
    by_image = metrics.compared([torch.tensor([0.0, 2.0, 0.0, 2.0])] * 2, reference)
    assert by_image == pytest.approx((1.0, 1.96 * (4 / 3 / 4) ** 0.5))


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of two labels with its processor, and a folder of images."""
    root = tmp_path_factory.mktemp("assets")
    names = {0: "blue", 1: "red"}
    make_model(num_labels=2, id2label=names, label2id={v: k for k, v in names.items()}).save_pretrained(root / "model")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(root / "model")
    generator = torch.Generator().manual_seed(0)
    for place, name in names.items():
        (root / "images" / name).mkdir(parents=True)
        for number in range(8):
            pixels = torch.randint(0, 60, (32, 32, 3), generator=generator, dtype=torch.uint8)
            pixels[..., 2 - 2 * place] += 150
            Image.fromarray(pixels.numpy()).save(root / "images" / name / f"{number}.png")
    return root


def test_metrics_continues_from_its_folder(
    assets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [str(assets / "model"), str(assets / "images"), str(assets / "images"), "--output", str(tmp_path)]
    words += ["--kinds", "labels", "labels+neighbors", "--draws", "1", "2", "--seeds", "0", "1", "--ratios", "0.5"]
    metrics.main(words)
    shown = capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert [row["variant"] for row in rows] == [
        "labels x 1", "labels x 2", "labels+neighbors x 1", "labels+neighbors x 2",
    ]  # fmt: skip
    assert float(rows[0]["kl_difference"]) == 0
    assert shown.count("| 0.5 | ") == 4
    monkeypatch.setattr(metrics, "gathered", None)
    monkeypatch.setattr(metrics, "fit_plan", None)
    metrics.main(words)
    assert capsys.readouterr().out == shown


def test_nearest_neighbors_agree_with_a_vote_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    bank, queries = torch.randn(30, 4, generator=generator), torch.randn(10, 4, generator=generator)
    classes = torch.randint(0, 3, (30,), generator=generator)
    found = nearest_neighbors.nearest_classes(bank, classes, queries, 5)
    for query, chosen in zip(queries, found.tolist(), strict=True):
        cosines = [float(torch.cosine_similarity(query, other, dim=0)) for other in bank]
        nearest = sorted(range(30), key=lambda index: -cosines[index])[:5]
        votes = [sum(torch.tensor(cosines[i] / 0.07).exp() for i in nearest if classes[i] == c) for c in range(3)]
        assert chosen == max(range(3), key=lambda c: float(votes[c]))


def test_a_backbone_is_evaluated_before_and_after(
    assets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(assets / "images")
    nearest_neighbors.main([str(assets / "model"), folder, folder, "--output", str(tmp_path), "--neighbors", "3"])
    lines: list[Any] = [line.split("|") for line in capsys.readouterr().out.splitlines()]
    assert [line[1].strip() for line in lines[2:]] == ["dense", "neighbors", "identity"]
    # Queries that are in the bank: each is nearest to itself.
    assert lines[2][2].split()[0] == "100.0"
    assert 0 <= float(lines[3][5]) < 1

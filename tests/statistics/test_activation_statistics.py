"""The file of statistics, its validation, and merging."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hf_vbp.adapters.registry import find_sites
from hf_vbp.calibration.collect import collect_statistics
from hf_vbp.config.requirements import Requirements
from hf_vbp.errors import StatisticsError, StatisticsMismatchError
from hf_vbp.statistics.activation_statistics import ActivationStatistics
from hf_vbp.statistics.fingerprints import SKETCH_SIZE, ImageSketch, hash_images
from hf_vbp.statistics.site_moments import full_halves
from tests.calibration.helpers import DIAGONAL, FULL, METRIC, capture, images, in_batches
from tests.conftest import make_model


@pytest.fixture
def everything(vit: Any) -> ActivationStatistics:
    """Statistics of 40 images with all that can be gathered."""
    return collect_statistics(vit, in_batches(images(40), 8), FULL | METRIC)


def assert_equal(first: ActivationStatistics, second: ActivationStatistics) -> None:
    assert first.fingerprints == second.fingerprints
    for mine, theirs in zip(first.sites, second.sites, strict=True):
        assert (mine.name, mine.index, mine.moments.count) == (theirs.name, theirs.index, theirs.moments.count)
        for name in ("mean", "m2", "comoment"):
            a, b = getattr(mine.moments, name), getattr(theirs.moments, name)
            assert (a is None and b is None) or torch.equal(a, b)
        assert (mine.metric is None) == (theirs.metric is None)
        assert mine.metric is None or torch.equal(mine.metric, theirs.metric)  # type: ignore[arg-type]
        for half, other in zip(mine.halves or (), theirs.halves or (), strict=True):
            assert half.count == other.count
            assert torch.equal(half.m2, other.m2)


def test_a_file_holds_everything(everything: ActivationStatistics, tmp_path: Path) -> None:
    path = tmp_path / "statistics.safetensors"
    everything.save(path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert_equal(ActivationStatistics.load(str(path)), everything)
    assert everything.nbytes <= path.stat().st_size < everything.nbytes + 20_000


def test_a_file_without_extras(vit: Any, tmp_path: Path) -> None:
    statistics = collect_statistics(vit, in_batches(images(5), 5), DIAGONAL)
    statistics.save(tmp_path / "s.safetensors")
    assert_equal(ActivationStatistics.load(tmp_path / "s.safetensors"), statistics)


def test_the_tensors_have_their_documented_names(everything: ActivationStatistics, tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    everything.save(path)
    with safe_open(path, framework="pt") as file:
        names, metadata = set(file.keys()), file.metadata()
    assert {f"sites.2.{name}" for name in ("count", "mean", "m2", "comoment", "metric")} <= names
    assert {f"sites.0.halves.1.{name}" for name in ("count", "mean", "m2")} <= names
    assert (metadata["format"], metadata["version"]) == ("hf_vbp.statistics", "1")


def test_saving_replaces_whole_files_only(everything: ActivationStatistics, tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    path.write_bytes(b"old")
    everything.save(path)
    assert ActivationStatistics.load(path).images == 40
    with pytest.raises(StatisticsError, match="Cannot write"):
        everything.save(tmp_path / "no" / "such" / "folder.safetensors")


def rewrite(path: Path, change: Any) -> None:
    """Rewrite a file with changed tensors and metadata."""
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    tensors = load_file(path)
    change(tensors, metadata)
    save_file(tensors, path, metadata=metadata)


def without_fingerprint(tensors: Any, metadata: Any) -> None:
    description = json.loads(metadata["description"])
    del description["fingerprints"]["weights"]
    metadata["description"] = json.dumps(description)


def beyond_one(tensors: Any, metadata: Any) -> None:
    matrix = tensors["sites.1.comoment"]
    matrix[0, 1] = matrix[1, 0] = 2 * matrix.diagonal().max()


DAMAGE = {
    "another kind": (lambda t, m: m.update(format="else"), "of kind else"),
    "another version": (lambda t, m: m.update(version="99"), "version 99"),
    "no description": (lambda t, m: m.pop("description"), "damaged"),
    "description not JSON": (lambda t, m: m.update(description="{"), "damaged"),
    "description a list": (lambda t, m: m.update(description="[]"), "not an object"),
    "no sites": (lambda t, m: m.update(description="{}"), "does not name its sites"),
    "no weights hash": (without_fingerprint, "lacks the fingerprints weights"),
    "tensor missing": (lambda t, m: t.pop("sites.1.mean"), r"tensor sites\.1\.mean is missing"),
    "count missing": (lambda t, m: t.pop("sites.1.count"), r"sites\.1\.count is missing"),
    "count negative": (lambda t, m: t.update({"sites.1.count": torch.tensor(-3)}), r"sites\.1\.count"),
    "wrong dtype": (lambda t, m: t.update({"sites.0.m2": t["sites.0.m2"].float()}), "float32"),
    "wrong width": (
        lambda t, m: t.update({"sites.0.m2": t["sites.0.m2"][:5].clone()}),
        r"sites\.0\.m2 of .*shape \(48\), got .*\(5,\)",
    ),
    "NaN": (lambda t, m: t["sites.0.m2"].fill_(float("nan")), "NaN or infinity"),
    "negative variance": (lambda t, m: t["sites.0.m2"].neg_(), "below 0"),
    "comoment not square": (
        lambda t, m: t.update({"sites.2.comoment": t["sites.2.comoment"][:, :4].clone()}),
        r"sites\.2\.comoment of .*, got .*\(48, 4\)",
    ),
    "metric missing": (lambda t, m: t.pop("sites.2.metric"), r"sites\.2\.metric"),
    "half of another width": (
        lambda t, m: t.update(
            {f"sites.0.halves.1.{name}": torch.ones(3, dtype=torch.float64) for name in ("mean", "m2")}
        ),
        r"sites\.0\.halves\.1\.mean of .*shape \(48\)",
    ),
    "metric not symmetric": (lambda t, m: t["sites.1.metric"].triu_(1), "not symmetric"),
    "co-moments negated": (lambda t, m: t["sites.1.comoment"].neg_(), "diagonal of sites.1.comoment"),
    "co-moments not symmetric": (lambda t, m: t["sites.1.comoment"].triu_(), "not symmetric"),
    "correlation beyond 1": (beyond_one, "correlations beyond 1"),
    "huge count": (lambda t, m: t.update({"sites.1.count": torch.tensor(2**63 - 1)}), "not plausible"),
    "another count": (lambda t, m: t["sites.0.count"].add_(1), "but the fingerprint"),
    "halves above the total": (lambda t, m: t["sites.0.halves.0.count"].add_(9999), "more tokens than the total"),
    "some curves": (
        lambda t, m: t.update({"sites.1.curve.costs": torch.ones(48, dtype=torch.float64)}),
        "unexpected tensors: sites.1.curve.costs",
    ),
    "some saliency": (
        lambda t, m: t.update({"sites.1.saliency": torch.ones(48, dtype=torch.float64)}),
        "only some of the sites",
    ),
    "a tensor too many": (lambda t, m: t.update({"sites.7.mean": torch.ones(2)}), "unexpected tensors: sites.7.mean"),
}


@pytest.mark.parametrize("name", list(DAMAGE))
def test_a_damaged_file_is_refused(name: str, everything: ActivationStatistics, tmp_path: Path) -> None:
    change, message = DAMAGE[name]
    path = tmp_path / "s.safetensors"
    everything.save(path)
    rewrite(path, change)
    with pytest.raises(StatisticsError, match=message):
        ActivationStatistics.load(path)


@pytest.mark.parametrize("value", [None, True, -1, 1.5, "text", ["text"], {"seed": "x"}])
def test_fingerprints_of_other_types_are_refused(value: Any, everything: ActivationStatistics, tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    valid = {**everything.fingerprints, "curves": {}}
    for key, good in valid.items():
        if key in ("weights", "dtype", "model", "data", "versions", "curves") and type(value) is type(good):
            continue
        if (key, value) in (("token_weights", None), ("output_metric", None)):
            continue
        everything.save(path)

        def change(tensors: Any, metadata: Any, key: str = key) -> None:
            description = json.loads(metadata["description"])
            description["fingerprints"][key] = value
            metadata["description"] = json.dumps(description)

        rewrite(path, change)
        with pytest.raises(StatisticsError, match=f"the fingerprint {key} has the invalid value"):
            ActivationStatistics.load(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StatisticsError, match="there is no such file"):
        ActivationStatistics.load(tmp_path / "nothing")
    with pytest.raises(StatisticsError, match="not a file"):
        ActivationStatistics.load(tmp_path)
    for content, says in (
        (b"", "is an empty file, not a file of statistics"),
        (b"garbage that is no header", "is text, not a file of statistics"),
        (b"\xff" * 64, "is damaged"),
    ):
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(StatisticsError, match=f"bad {says}"):
            ActivationStatistics.load(tmp_path / "bad")


def test_a_truncated_file_is_refused(everything: ActivationStatistics, tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    everything.save(path)
    content = path.read_bytes()
    for keep in (8, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:keep])
        with pytest.raises(StatisticsError, match="damaged"):
            ActivationStatistics.load(path)


def test_other_models_are_refused(vit: Any, everything: ActivationStatistics) -> None:
    everything.check_model(vit)
    everything.check_model(vit.vit)
    with pytest.raises(StatisticsMismatchError, match="weights differ"):
        everything.check_model(make_model(seed=1))
    with pytest.raises(StatisticsMismatchError, match=r"dtype differs.*float32.*bfloat16"):
        everything.check_model(make_model(dtype=torch.bfloat16))
    with pytest.raises(StatisticsMismatchError, match=r"widths differ.*3 x 48.*3 x 40"):
        everything.check_model(make_model(intermediate_size=40))
    with torch.no_grad():
        find_sites(vit)[1].fc2.weight[0, 0] += 1e-3
    with pytest.raises(StatisticsMismatchError, match="weights differ"):
        everything.check_model(vit)


@pytest.mark.parametrize("requires", [DIAGONAL, FULL], ids=["diagonal", "full"])
def test_parts_merge_to_the_whole(vit: Any, requires: Requirements) -> None:
    values = images(70)
    parts = [collect_statistics(vit, in_batches(part, 8), requires | METRIC) for part in values.split([40, 3, 27])]
    merged = ActivationStatistics.merge(parts[0], parts[1]).merge(parts[2])
    assert (merged.images, merged.tokens) == (70, 70 * 17)
    for site, rows in zip(merged.sites, capture(vit, in_batches(values, 8)), strict=True):
        np.testing.assert_allclose(site.moments.variance.numpy(), rows.numpy().var(0, ddof=1), rtol=1e-6)
        assert site.halves is not None
        counts = [part.sites[site.index].moments.count for part in parts]
        expected = sum(
            part.sites[site.index].metric * (count / sum(counts)) for part, count in zip(parts, counts, strict=True)
        )
        torch.testing.assert_close(site.metric, expected)
    other_way = parts[2].merge(parts[0]).merge(parts[1])
    torch.testing.assert_close(other_way.sites[0].moments.m2, merged.sites[0].moments.m2)
    assert other_way.fingerprints["image_sketch"] == merged.fingerprints["image_sketch"]


def test_merging_refuses_overlap_and_other_statistics(vit: Any) -> None:
    values = images(20)
    first = collect_statistics(vit, in_batches(values[:12], 4), DIAGONAL)
    second = collect_statistics(vit, in_batches(values[11:], 4), DIAGONAL)
    with pytest.raises(StatisticsMismatchError, match="At least 1 images are in both"):
        first.merge(second)
    assert first.merge(second, allow_overlap=True).images == 21
    with pytest.raises(StatisticsMismatchError, match="At least 12 images"):
        first.merge(first)
    rest = in_batches(values[12:], 4)
    for other, key in (
        (collect_statistics(vit, rest, FULL), "moments"),
        (collect_statistics(vit, rest, METRIC), "output_metric"),
        (collect_statistics(make_model(seed=1), rest, DIAGONAL), "weights"),
        (collect_statistics(vit, rest, DIAGONAL, provenance={"processor": "another"}), r"data\.processor"),
    ):
        with pytest.raises(StatisticsMismatchError, match=f"{key} differs"):
            first.merge(other)


def test_merging_keeps_the_provenance_of_the_parts(vit: Any) -> None:
    values = images(9)
    parts = [
        collect_statistics(vit, in_batches(part, 3), DIAGONAL, provenance={"processor": "p", "shard": number})
        for number, part in enumerate(values.split(3))
    ]
    merged = parts[0].merge(parts[1]).merge(parts[2])
    assert merged.fingerprints["data"]["processor"] == "p"
    assert [part["shard"] for part in merged.fingerprints["data"]["parts"]] == [0, 1, 2]
    assert parts[0].fingerprints["data"] == {"processor": "p", "shard": 0}


def test_the_sketch_is_of_fixed_size_and_finds_shared_images() -> None:
    first, second = ImageSketch(range(0, 20_000, 2)), ImageSketch(range(1, 20_000, 2))
    assert len(first.hashes()) == SKETCH_SIZE
    assert first.shared(second) == 0
    assert ImageSketch(reversed(range(0, 20_000, 2))).hashes() == first.hashes()
    second.update([4])
    assert first.shared(second) == 1


def test_image_hashes_depend_on_the_image_and_not_on_the_batch() -> None:
    values = images(6)
    hashes = hash_images(values)
    assert len(set(hashes)) == 6
    assert hash_images(values[2:4]) == hashes[2:4]
    assert hash_images(values.flip(0).contiguous().flip(0)) == hashes


def test_merging_with_a_part_without_halves_drops_the_co_moments_of_halves(vit: Any) -> None:
    # The total minus the first half would contain the images of the short part.
    long, short = (
        collect_statistics(vit, in_batches(images(count, seed=seed), 8), FULL) for count, seed in ((40, 7), (8, 8))
    )
    assert short.sites[0].halves is None
    for joined in (long.merge(short), short.merge(long)):
        assert joined.sites[0].halves is not None
        assert [half.count for half in joined.sites[0].halves] == [half.count for half in long.sites[0].halves or ()]
        assert full_halves(joined.sites[0]) is None
    assert full_halves(long.sites[0]) is not None


def test_a_saliency_is_saved_and_dropped_by_merging(vit: Any, tmp_path: Path) -> None:
    first, second = (
        collect_statistics(vit, in_batches(images(20, seed=seed), 8), Requirements(saliency=True)) for seed in (7, 8)
    )
    first.save(tmp_path / "s.safetensors")
    loaded = ActivationStatistics.load(tmp_path / "s.safetensors")
    assert loaded.provides.saliency
    for mine, theirs in zip(loaded.sites, first.sites, strict=True):
        assert torch.equal(mine.saliency, theirs.saliency)  # type: ignore[arg-type]
    assert not loaded.merge(second).provides.saliency

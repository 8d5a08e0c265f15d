"""Statistics in a folder: groups of sites in several passes, within a limit of memory."""

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

import hf_vbp
from hf_vbp import VBPConfig
from hf_vbp.adapters.registry import find_sites
from hf_vbp.calibration.collect import collect_statistics, statistics_bytes
from hf_vbp.errors import ConfigurationError, StatisticsError, StatisticsMismatchError
from hf_vbp.statistics import stored_sites
from hf_vbp.statistics.activation_statistics import ActivationStatistics
from hf_vbp.statistics.serialization import load_statistics
from tests.calibration.helpers import EVERYTHING, FULL, images, in_batches
from tests.calibration.test_resume import assert_same_bits, interrupted
from tests.conftest import make_model

Batches = list[dict[str, torch.Tensor]]


class Counted:
    """Batches that know how often they were read from the start."""

    def __init__(self, batches: Batches) -> None:
        self.batches, self.passes = batches, 0

    def __iter__(self) -> Any:
        self.passes += 1
        return iter(self.batches)


def limit_of(model: Any, sites: int, requires: Any = EVERYTHING) -> int:
    return statistics_bytes(find_sites(model)[:sites], requires)


@pytest.mark.parametrize(("sites", "passes"), [(1, 3), (2, 2), (3, 1)])
def test_groups_of_sites_give_the_bits_of_one_pass(vit: Any, tmp_path: Path, sites: int, passes: int) -> None:
    data = Counted(in_batches(images(36), 4))
    expected = collect_statistics(vit, data, EVERYTHING)
    data.passes = 0
    seen: list[tuple[int, int | None]] = []
    found = collect_statistics(
        vit,
        data,
        EVERYTHING,
        max_bytes=limit_of(vit, sites),
        store=tmp_path / "store",
        progress=lambda done, total: seen.append((done, total)),
    )
    assert data.passes == passes
    assert_same_bits(found, expected)
    assert_same_bits(ActivationStatistics.load(tmp_path / "store"), expected)
    found.save(tmp_path / "one.safetensors")
    assert_same_bits(ActivationStatistics.load(tmp_path / "one.safetensors"), expected)


def test_a_store_without_a_limit_takes_one_pass(vit: Any, batches: Batches, tmp_path: Path) -> None:
    data = Counted(batches)
    found = collect_statistics(vit, data, FULL, store=tmp_path)
    assert data.passes == 1
    assert_same_bits(found, collect_statistics(vit, batches, FULL))


def test_the_default_method_from_a_store_holds_one_site_at_a_time(
    vit: Any, batches: Batches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = VBPConfig(ratio=0.5)
    expected = hf_vbp.prune(vit, batches, config)
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    most = 0

    def watched(path: Path, **options: Any) -> Any:
        nonlocal most
        sites, fingerprints = load_statistics(path, **options)
        alive.add(sites[0])
        most = max(most, len(alive))
        return sites, fingerprints

    monkeypatch.setattr(stored_sites, "load_statistics", watched)
    stored = collect_statistics(vit, batches, config, max_bytes=limit_of(vit, 1), store=tmp_path)
    scored = hf_vbp.precompute_scores(vit, stored, config)
    assert scored.sites[0].curve is not None
    result = hf_vbp.prune(vit, None, config, statistics=scored)
    # The next one is read while a loop still holds the last one.
    assert most <= 2
    assert result.plan.sites == expected.plan.sites
    weights = expected.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in result.model.state_dict().items())


def test_a_killed_call_continues_after_the_last_finished_group(vit: Any, batches: Batches, tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_bytes": limit_of(vit, 1), "store": tmp_path / "store"}
    options |= {"resume": tmp_path / "state", "resume_every": 2}
    with pytest.raises(RuntimeError):
        collect_statistics(vit, batches, EVERYTHING, progress=interrupted(len(batches) + 4), **options)
    with pytest.raises(StatisticsError, match=r"holds no complete statistics.*continued by"):
        ActivationStatistics.load(tmp_path / "store")
    data = Counted(batches)
    steps = []
    found = collect_statistics(vit, data, EVERYTHING, progress=lambda done, _: steps.append(done), **options)
    assert data.passes == 2
    # Four of the five batches of the second site were in the state.
    assert len(steps) == 1 + len(batches)
    assert_same_bits(found, collect_statistics(vit, batches, EVERYTHING))
    assert not (tmp_path / "state").exists()


def test_a_call_that_is_killed_between_two_files_continues(
    vit: Any, batches: Batches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"max_bytes": limit_of(vit, 2), "store": tmp_path / "store"}
    options |= {"resume": tmp_path / "state", "resume_every": 1}
    write, written = stored_sites.save_statistics, []

    def killed_at_the_second(sites: Any, fingerprints: Any, path: Path) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(path)
        write(sites, fingerprints, path)

    with monkeypatch.context() as patch:
        patch.setattr(stored_sites, "save_statistics", killed_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            collect_statistics(vit, batches, EVERYTHING, **options)
    found = collect_statistics(vit, batches, EVERYTHING, **options)
    assert_same_bits(found, collect_statistics(vit, batches, EVERYTHING))


def test_passes_must_read_the_same_images(vit: Any, tmp_path: Path) -> None:
    class Changing:
        def __init__(self) -> None:
            self.seed = 0

        def __iter__(self) -> Any:
            self.seed += 1
            return iter(in_batches(images(8, self.seed), 4))

    with pytest.raises(StatisticsError, match=r"read different images.*same images"):
        collect_statistics(vit, Changing(), FULL, max_bytes=limit_of(vit, 1, FULL), store=tmp_path)


@pytest.mark.parametrize("given", ["generator", "too small", "no store"])
def test_what_cannot_work_is_refused_before_the_first_pass(vit: Any, tmp_path: Path, given: str) -> None:
    one, everything = limit_of(vit, 1, FULL), limit_of(vit, 3, FULL)
    data: Any = Counted(in_batches(images(8), 4))
    store: Path | None = tmp_path / "store"
    limit = one
    if given == "generator":
        data, message = iter(data), "several passes.*iterated only once"
    elif given == "too small":
        limit, message = one - 1, f"need {everything:,} bytes, the largest site {one:,}, but max_bytes is {one - 1:,}"
    else:
        store, message = None, "a folder as store= gathers groups of sites in several passes"
    with pytest.raises(ConfigurationError, match=message):
        collect_statistics(vit, data, FULL, max_bytes=limit, store=store)
    assert getattr(data, "passes", 0) == 0
    assert not (tmp_path / "store").exists()


def test_folders_of_others_are_refused(vit: Any, batches: Batches, tmp_path: Path) -> None:
    collect_statistics(vit, batches, FULL, store=tmp_path / "full")
    with pytest.raises(StatisticsError, match=r"holds complete statistics.*Load them"):
        collect_statistics(vit, batches, FULL, store=tmp_path / "full")
    (tmp_path / "full" / "sites.json").unlink()
    with pytest.raises(StatisticsMismatchError, match="weights differs"):
        collect_statistics(make_model("vit", seed=1), batches, FULL, store=tmp_path / "full")
    with pytest.raises(StatisticsMismatchError, match="limit differs"):
        collect_statistics(vit, batches, FULL, store=tmp_path / "full", limit=20)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(StatisticsError, match=r"holds notes\.txt"):
        collect_statistics(vit, batches, FULL, store=tmp_path / "other")
    assert (tmp_path / "other" / "notes.txt").read_text() == "mine"


def test_a_damaged_store_is_named(vit: Any, batches: Batches, tmp_path: Path) -> None:
    collect_statistics(vit, batches, FULL, store=tmp_path)
    second = tmp_path / "site-0001.safetensors"
    content = second.read_bytes()
    second.write_bytes(content[:-8] + bytes([255] * 8))
    with pytest.raises(StatisticsError, match="site-0001"):
        ActivationStatistics.load(tmp_path)
    second.write_bytes((tmp_path / "site-0000.safetensors").read_bytes())
    with pytest.raises(StatisticsError, match="does not belong to the other sites: its name"):
        ActivationStatistics.load(tmp_path)

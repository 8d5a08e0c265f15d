"""Sizes are checked before anything is downloaded."""

from typing import Any

import pytest

from hf_vbp.adapters.prepared import prepare, prepare_structure
from hf_vbp.calibration.collect import collect_statistics
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.errors import ConfigurationError
from hf_vbp.ui.memory import available_memory, check_memory, memory_needed
from hf_vbp.ui.settings import Settings


def test_the_estimate_covers_weights_and_statistics(vit: Any, batches: Any) -> None:
    weights = sum(tensor.nbytes for tensor in vit.state_dict().values())
    statistics = collect_statistics(prepare(vit), batches, VBPConfig())
    sums = sum(site.moments.comoment.nbytes for site in statistics.sites if site.moments.comoment is not None)
    assert memory_needed(prepare(vit)) > 2 * weights + sums > 0
    assert memory_needed(prepare_structure(vit.to("meta"))) == memory_needed(prepare_structure(vit))


@pytest.mark.parametrize("of", ["memory", "download"])
def test_a_model_that_does_not_fit_is_refused_with_the_line_of_the_job(of: str) -> None:
    found = {"model": "big/model", "memory": 1000, "download": 1000, of: 3_000_000_000}
    with pytest.raises(ConfigurationError, match=r"about 3\.00 GB .* only 2\.00 GB .* nothing was .*hf jobs"):
        check_memory(found, Settings(memory=2_000_000_000), "hf jobs uv run x")
    check_memory(found, Settings(memory=4_000_000_000), "hf jobs uv run x")


def test_the_free_memory_is_known() -> None:
    assert 0 < available_memory() < 1 << 50

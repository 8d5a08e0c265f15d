"""The bound on memory, measured by the benchmark in a separate process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the resident set is read from /proc")
def test_a_deit_base_at_the_papers_ratio() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    figures = json.loads(result.stdout)
    assert round(figures["parameters"]["pruned"] / 1e6, 2) == 55.40
    assert figures["added_over_model"] <= 1


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the resident set is read from /proc")
def test_pruning_in_place_adds_less_than_a_third_of_a_model_of_many_blocks() -> None:
    """The shape of DINOv2-giant with half of its width, in bfloat16."""
    command = ["-m", "benchmarks.large_model", "--hidden", "768", "--image-size", "224", "--ratio", "0.2"]
    result = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    figures = json.loads(result.stdout)
    assert result.returncode == 0, figures
    assert max(figures["added_over_model"].values()) <= 0.3


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the resident set is read from /proc")
def test_covariances_of_many_blocks_stay_within_the_limit(tmp_path: Path) -> None:
    command = ["-m", "benchmarks.large_model", "--method", "default", "--hidden", "384", "--layers", "24"]
    command += ["--image-size", "224", "--images", "2", "--max-bytes", "150000000", "--folder", str(tmp_path)]
    result = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    figures = json.loads(result.stdout)
    assert figures["sums_bytes"] > 4 * 150_000_000
    # The sums, and less than as much for activations, gradients and the matrices of one site.
    assert max(figures["added_bytes"].values()) <= 2 * 150_000_000

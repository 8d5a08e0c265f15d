"""Previews of plans against the plans themselves: the predicted output error, and the time of both.

    python -m benchmarks.preview MODEL DATA [--limit 64]

The figures of docs/without_installing.md are of a DeiT-Tiny and photographs:

    python -m benchmarks.preview deit-tiny calibration
"""

import argparse
import time

from hf_vbp.adapters.prepared import prepare
from hf_vbp.calibration.collect import collect_statistics
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.data.loading import load_images
from hf_vbp.pruning.make_plan import make_plan, precompute_scores, rank_sites
from hf_vbp.pruning.preview import Previewer, damage_curves
from hf_vbp.workflow.loading import load_model

RATIOS = (0.05, 0.07, 0.1, 0.15, 0.25, 0.3, 0.35, 0.45, 0.5, 0.55, 0.65, 0.7, 0.85)


def main() -> None:
    """Print one row for each share of removed neurons."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--limit", type=int, default=64)
    given = parser.parse_args()
    loaded, config = load_model(given.model), VBPConfig()
    images = load_images(given.data, loaded.processor, model=loaded.model, limit=given.limit)
    prepared = prepare(loaded.model)
    statistics = precompute_scores(prepared, collect_statistics(prepared, images, config), config)
    rankings = rank_sites(prepared, statistics, config)
    previewer = Previewer(prepared, rankings, damage_curves(prepared, statistics, rankings, config))
    previewer.of(config.with_budget(ratio=0.5))
    print("removed  predicted  interpolated  difference  plan ms  preview ms")
    for ratio in RATIOS:
        asked = config.with_budget(ratio=ratio)
        begin = time.perf_counter()
        plan = make_plan(prepared, statistics, asked, rankings=rankings)
        between = time.perf_counter()
        preview = previewer.of(asked)
        end = time.perf_counter()
        exact, interpolated = plan.predicted["relative_output_error"], preview.predicted or 0.0
        assert list(preview.widths) == plan.widths
        times = f"{1e3 * (between - begin):7.1f}  {1e3 * (end - between):10.1f}"
        print(f"{ratio:7.2f}  {exact:9.5f}  {interpolated:12.5f}  {interpolated / exact - 1:+10.1%}  {times}")


if __name__ == "__main__":
    main()

"""Statistics for a command: from a file, from images, or from both."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_vbp.errors import DataError
from hf_vbp.workflow.describe import describe_images
from hf_vbp.workflow.loading import LoadedModel
from hf_vbp.workflow.requests import DataRequest, Reporter

if TYPE_CHECKING:
    from hf_vbp.adapters.prepared import PreparedModel
    from hf_vbp.config.vbp_config import VBPConfig
    from hf_vbp.statistics.activation_statistics import ActivationStatistics


def gather(
    prepared: "PreparedModel",
    loaded: LoadedModel,
    config: "VBPConfig",
    reporter: Reporter,
    *,
    data: DataRequest | None = None,
    statistics: Path | None = None,
) -> "ActivationStatistics":
    """Return the statistics that a configuration needs.

    Args:
        prepared: The validated model.
        loaded: The model with its processor.
        config: Determines what is gathered.
        reporter: Receives progress updates.
        data: Calibration images; with ``statistics`` they are read only for what the file lacks.
        statistics: File of statistics gathered earlier.

    Raises:
        DataError: Neither images nor statistics were given.
        StatisticsError: The file cannot be read, or belongs to another model.
    """
    from hf_vbp.calibration.collect import collect_statistics
    from hf_vbp.statistics.activation_statistics import ActivationStatistics
    from hf_vbp.workflow.prune import complete_statistics

    if data is None and statistics is None:
        raise DataError("Nothing to calibrate on: give --data, or --statistics from an earlier `hf-vbp stats`.")
    earlier = None if statistics is None else ActivationStatistics.load(statistics)
    if earlier is not None:
        earlier.check_model(prepared)
    images = None if data is None else data.open(loaded, "calibration")
    with reporter.stage("Statistics", None if images is None else images.images) as progress:
        if earlier is not None:
            return complete_statistics(prepared, earlier, config, images, progress=progress)
        gathered = collect_statistics(prepared, images or (), config, progress=progress)
    described = with_skipped(images, reporter)
    return replace(gathered, fingerprints={**gathered.fingerprints, "data": described})


def with_skipped(images: Any, reporter: Reporter) -> dict[str, Any]:
    """Return the description of images, and report the number of those that could not be decoded."""
    skipped = [bad.name for bad in images.bad_images]
    if skipped:
        reporter.say(f"Left out {len(skipped)} images that cannot be decoded: {', '.join(skipped[:3])} ...")
    return describe_images(images)

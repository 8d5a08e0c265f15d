"""Get the statistics of a command: from a file, from images, or from both."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_vbp.config.requirements import Requirements
from hf_vbp.errors import DataError, StatisticsError
from hf_vbp.results.redaction import without_paths
from hf_vbp.workflow.describe import describe_images
from hf_vbp.workflow.loading import LoadedModel
from hf_vbp.workflow.requests import CalibrationImages, DataRequest, Reporter, late_stage

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
    data: DataRequest | CalibrationImages | None = None,
    statistics: Path | None = None,
) -> "ActivationStatistics":
    """Return the statistics that a configuration needs.

    Args:
        prepared: The validated model.
        loaded: The model with its processor.
        config: Determines the statistics that are gathered.
        reporter: Receives progress updates.
        data: Calibration images; with ``statistics`` they are read only for statistics that the file lacks.
        statistics: File of statistics gathered earlier.

    Raises:
        DataError: Neither images nor statistics were given.
        StatisticsError: The file cannot be read, belongs to another model, or lacks statistics of the method that
            the images do not add.
    """
    from hf_vbp.calibration.collect import collect_statistics
    from hf_vbp.statistics.activation_statistics import ActivationStatistics
    from hf_vbp.workflow.prune import complete_statistics

    if data is None and statistics is None:
        raise DataError("Nothing to calibrate on: give --data, or --statistics from an earlier `hf-vbp stats`.")
    earlier = None
    if statistics is not None:
        earlier = ActivationStatistics.load(statistics)
        earlier.check_model(prepared)
        check_statistics(earlier, config, statistics, model=loaded.source, has_images=data is not None)
    opened = CalibrationImages(data, loaded) if isinstance(data, DataRequest) else data
    images, source = (None, None) if opened is None else (opened.images, opened.source)
    total = None if images is None else images.images
    if earlier is not None:
        with late_stage(reporter, "Statistics", total) as progress:
            return complete_statistics(prepared, earlier, config, source, progress=progress)
    with reporter.stage("Statistics", total) as progress:
        gathered = collect_statistics(prepared, () if source is None else source, config, progress=progress)
    described = with_skipped(images, reporter)
    return replace(gathered, fingerprints={**gathered.fingerprints, "data": described})


def check_statistics(
    statistics: "ActivationStatistics", config: "VBPConfig", file: Path, *, model: str, has_images: bool = False
) -> None:
    """Refuse a file that lacks statistics of the method, with a message for the command line.

    Args:
        statistics: The content of the file.
        config: Names the method.
        file: The file.
        model: The name of the model as the user gave it.
        has_images: Whether images are given, from which the saliency can be added.

    Raises:
        StatisticsError: Something is missing; the message names the command that gathers it.
    """
    # The output metric and the token weights are gathered only where the model's output allows it.
    available = statistics.provides | Requirements(output_metric=True, token_weights=True, bias=True)
    if has_images:
        available |= Requirements(saliency=True)
    methods = (
        (f"--criterion {config.criterion}", config.make_criterion()),
        (f"--compensation {config.compensation}", config.make_compensation()),
    )
    for flag, method in methods:
        missing = (method.requires - available).names()
        if missing:
            advice = "" if "saliency" not in missing else ", or pass --data to `hf-vbp prune`, which adds the saliency"
            raise StatisticsError(
                f"{flag} needs {', '.join(missing)}, which {file} does not hold. Gather a file that does with "
                f"`hf-vbp stats {model} --data DATA {methods[0][0]} {methods[1][0]} --output FILE`{advice}."
            )


def with_skipped(images: Any, reporter: Reporter) -> dict[str, Any]:
    """Return the description of the images with the names of those that could not be decoded; report their number."""
    skipped = [without_paths(bad.name) for bad in images.bad_images]
    if not skipped:
        return describe_images(images)
    names = ", ".join(skipped[:3]) + (", ..." if len(skipped) > 3 else "")
    reporter.say(f"Skipped {len(skipped)} images that cannot be decoded: {names}")
    return describe_images(images)

"""What the commands keep and report of the measurements of merged tokens."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_vbp.errors import OutputError, StatisticsError
from hf_vbp.pruning.levers import LeverWarning
from hf_vbp.pruning.make_plan import statistics_digest
from hf_vbp.statistics.activation_statistics import ActivationStatistics
from hf_vbp.workflow.requests import Reporter

_NAME = "lever_measurements"


@contextmanager
def lever_warnings(reporter: Reporter) -> Iterator[None]:
    """Report the warnings of levers as those of a command, each once."""
    reported: set[str] = set()
    with warnings.catch_warnings():
        warnings.filterwarnings("always", category=LeverWarning)
        show = warnings.showwarning

        def report(message: Warning | str, category: type[Warning], *rest: Any, **options: Any) -> None:
            text = str(message)
            if not issubclass(category, LeverWarning):
                show(message, category, *rest, **options)
            elif text not in reported:
                reported.add(text)
                reporter.warn(f"{text[:1].upper()}{text[1:]}")

        warnings.showwarning = report
        yield


def keep_measurements(path: Path, statistics: ActivationStatistics, reporter: Reporter) -> None:
    """Write the measurements of merged tokens into the file of the statistics, where it lacks them.

    The file is replaced atomically; everything else in it remains. A failure is reported, since the command itself
    does not need it.

    Args:
        path: The file.
        statistics: The statistics of the file, with the measurements.
        reporter: Receives the report.
    """
    measured = statistics.fingerprints.get(_NAME)
    if measured is None:
        return
    try:
        kept = ActivationStatistics.load(path)
        if kept.fingerprints.get(_NAME) == measured:
            return
        if statistics_digest(kept) != statistics_digest(statistics):
            raise StatisticsError(f"{path} holds other statistics.")
        replace(kept, fingerprints={**kept.fingerprints, _NAME: measured}).save(path)
    except (StatisticsError, OutputError) as error:
        reporter.warn(f"The measurements of merged tokens are not kept with the statistics. {error}")
        return
    reporter.say(f"The measurements of merged tokens are kept in {path}.")

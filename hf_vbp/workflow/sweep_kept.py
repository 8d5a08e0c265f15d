"""The statistics of a sweep, kept next to its table, so that an interrupted sweep does not repeat the pass."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

from hf_vbp.adapters.prepared import PreparedModel
from hf_vbp.calibration.collect import requirements_for, statistics_bytes
from hf_vbp.config.requirements import Requirements
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.errors import OutputError, StatisticsError
from hf_vbp.statistics.activation_statistics import ActivationStatistics
from hf_vbp.workflow.outputs import check_file_space
from hf_vbp.workflow.requests import Reporter

KEPT_NAME = "statistics.safetensors"
_VARYING = ("skipped", "skipped_names")


@dataclass(frozen=True)
class KeptStatistics:
    """The file with the statistics of a sweep.

    Attributes:
        path: The file.
        overwrite: Whether the statistics of another sweep may be replaced.
    """

    path: Path
    overwrite: bool

    def load(
        self, prepared: PreparedModel, methods: Sequence[VBPConfig], images: Mapping[str, Any]
    ) -> ActivationStatistics | None:
        """Return the statistics of an earlier run with the same model and images, None where there are none.

        Statistics that lack what a method needs are not used, unless a separate pass can add it.

        Args:
            prepared: The model.
            methods: The methods of this run.
            images: The description of its calibration images.

        Raises:
            OutputError: The file holds anything else, and ``overwrite`` is false.
        """
        if self.overwrite or not self.path.exists():
            return None
        try:
            kept = ActivationStatistics.load(self.path)
            kept.check_model(prepared)
        except StatisticsError as error:
            raise OutputError(f"{self.path} would be replaced. {error} {self._advice}") from error
        if _described(kept.fingerprints["data"]) != _described(images):
            raise OutputError(f"{self.path} holds the statistics of other calibration images. {self._advice}")
        missing = replace(self._requires(prepared, methods) - kept.provides, saliency=False, bias=False)
        return None if missing else kept

    def check_space(self, prepared: PreparedModel, methods: Sequence[VBPConfig], reporter: Reporter) -> bool:
        """Return whether the statistics fit on the disk; report it where they do not."""
        try:
            check_file_space(self.path, statistics_bytes(prepared.sites, self._requires(prepared, methods)))
        except OutputError as error:
            self._report(error, reporter)
            return False
        return True

    def save(self, statistics: ActivationStatistics, reporter: Reporter) -> None:
        """Write the file; a failure is reported, since the sweep itself does not need it."""
        try:
            statistics.save(self.path)
        except (StatisticsError, OutputError) as error:
            self._report(error, reporter)

    @property
    def _advice(self) -> str:
        return "Choose another output or pass --overwrite."

    def _report(self, error: Exception, reporter: Reporter) -> None:
        reporter.warn(f"The statistics are not kept, so a sweep that is interrupted repeats the pass. {error}")

    def _requires(self, prepared: PreparedModel, methods: Sequence[VBPConfig]) -> Requirements:
        return reduce(or_, (requirements_for(prepared, method) for method in methods), Requirements())


def _described(images: Mapping[str, Any]) -> str:
    # What was skipped is known only after a pass.
    return json.dumps({name: value for name, value in images.items() if name not in _VARYING}, sort_keys=True)

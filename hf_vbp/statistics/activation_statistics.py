"""The statistics of a whole model: the result of a pass, the input of a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from hf_vbp.adapters.prepared import PreparedModel, prepare
from hf_vbp.config.requirements import Requirements
from hf_vbp.errors import StatisticsMismatchError
from hf_vbp.statistics.fingerprints import ImageSketch
from hf_vbp.statistics.lever_measurements import LeverMeasurements, read_lever_measurements
from hf_vbp.statistics.serialization import load_statistics, save_statistics
from hf_vbp.statistics.site_statistics import SiteStatistics
from hf_vbp.statistics.stored_sites import load_folder

# Fingerprints that must agree for two files to be merged; the others are counts and provenance.
MUST_AGREE = ("weights", "dtype", "moments", "output_metric", "token_weights")
MUST_AGREE_DATA = ("processor", "transform")


@dataclass(frozen=True, eq=False)
class ActivationStatistics:
    """The statistics of every MLP site of one model over one set of images.

    Attributes:
        sites: One entry per site, in the order of the blocks: a tuple, or sites that are read from a folder when they
            are used (:class:`~hf_vbp.statistics.stored_sites.StoredSites`).
        fingerprints: Identity of model and data, ready for JSON: ``weights`` (hash of the site weights),
            ``model`` (id, revision, model_type, architecture), ``dtype``, ``data`` (provenance as given),
            ``images``, ``tokens`` (of the first site), ``moments`` (``"diagonal"`` or ``"full"``),
            ``output_metric`` (``None`` or its seed), ``token_weights`` (``None`` or ``"gradient"``),
            ``image_sketch`` and ``versions``; ``lever_measurements`` where merged tokens were measured.
    """

    sites: Sequence[SiteStatistics]
    fingerprints: dict[str, Any]

    @property
    def images(self) -> int:
        """Number of images."""
        return int(self.fingerprints["images"])

    @property
    def tokens(self) -> int:
        """Number of tokens of the first site (sites of hierarchical models have different numbers)."""
        return self.sites[0].moments.count

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(site.nbytes for site in self.sites)

    def measurements_of(self, method: Mapping[str, Any]) -> LeverMeasurements | None:
        """Return what was measured of merged tokens with a method; None where nothing was.

        Args:
            method: The :attr:`hf_vbp.VBPConfig.method` of a configuration.
        """
        every = read_lever_measurements(self.fingerprints.get("lever_measurements", []))
        return next((found for found in every if found.method == method), None)

    def with_measurements(self, measurements: LeverMeasurements) -> ActivationStatistics:
        """Return statistics that hold these measurements in place of earlier ones of the same method."""
        every = read_lever_measurements(self.fingerprints.get("lever_measurements", []))
        kept = [found for found in every if found.method != measurements.method]
        described = [found.to_dict() for found in (*kept, measurements)]
        return replace(self, fingerprints={**self.fingerprints, "lever_measurements": described})

    def check_model(self, model: nn.Module | PreparedModel) -> None:
        """Check that the statistics were gathered from this model.

        Args:
            model: The model that a plan is made for.

        Raises:
            StatisticsMismatchError: They were not; names the fingerprint that differs.
            UnsupportedModelError: ``model`` has no MLP sites.
        """
        prepared = prepare(model)
        origin = describe_model(self.fingerprints)
        widths = [site.moments.hidden for site in self.sites]
        model_widths = prepared.widths
        if widths != model_widths:
            raise StatisticsMismatchError(
                f"widths differ: the statistics of {origin} have sites of {_short(widths)} hidden neurons, but the "
                f"model has {_short(model_widths)}. Gather statistics from this model."
            )
        dtype = prepared.identity["dtype"]
        if dtype != self.fingerprints["dtype"]:
            raise StatisticsMismatchError(
                f"dtype differs: the statistics were gathered in {self.fingerprints['dtype']}, but the model is in "
                f"{dtype}. Load the model in {self.fingerprints['dtype']}, or gather statistics in {dtype}."
            )
        weights = prepared.fingerprint
        if weights != self.fingerprints["weights"]:
            raise StatisticsMismatchError(
                f"weights differ: the statistics were gathered from {origin} with site weights "
                f"{self.fingerprints['weights'][:12]}, but this model has {weights[:12]}. Gather them from this model."
            )

    def merge(self, other: ActivationStatistics, *, allow_overlap: bool = False) -> ActivationStatistics:
        """Merge the statistics of two sets of images, gathered from the same model in the same way.

        Elimination curves and saliency are dropped, because each belongs to one set of images. Run
        :func:`hf_vbp.precompute_scores` on the result for the curves, and gather the saliency again with
        :func:`hf_vbp.calibration.saliency.with_saliency`.

        Args:
            other: The statistics of other images.
            allow_overlap: Count images twice that are in both, instead of refusing.

        Returns:
            New statistics; the arguments are not changed.

        Raises:
            StatisticsMismatchError: They differ in a fingerprint that must agree, or share images.
        """
        self._check_mergeable(other)
        sketch, other_sketch = self._sketch(), other._sketch()
        shared = sketch.shared(other_sketch)
        if shared and not allow_overlap:
            raise StatisticsMismatchError(
                f"At least {shared} images are in both sets of statistics and would be counted twice. Gather them "
                "from parts of the data set that do not overlap."
            )
        sketch.update(other_sketch.hashes())
        sites = tuple(mine.merge(theirs) for mine, theirs in zip(self.sites, other.sites, strict=True))
        fingerprints = dict(self.fingerprints)
        # Measured on the images of one set, with neurons that the merged statistics may not choose.
        fingerprints.pop("lever_measurements", None)
        fingerprints["images"] = self.images + other.images
        fingerprints["tokens"] = sites[0].moments.count
        fingerprints["image_sketch"] = sketch.hashes()
        fingerprints["data"] = _merged_data(self.fingerprints["data"], other.fingerprints["data"])
        return ActivationStatistics(sites, fingerprints)

    @property
    def provides(self) -> Requirements:
        """The statistics that every site has."""
        each = [site.provides for site in self.sites]
        return Requirements(*(all(getattr(entry, name) for entry in each) for name in vars(Requirements())))

    def save(self, path: str | Path) -> None:
        """Write everything to one safetensors file; see :func:`hf_vbp.statistics.serialization.save_statistics`."""
        save_statistics(self.sites, self.fingerprints, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> ActivationStatistics:
        """Read a file that :meth:`save` wrote, or a folder that a pass with ``store`` wrote.

        The sites of a folder are read one by one when they are used, so that they are never all in memory.

        Raises:
            StatisticsError: It is missing, damaged, unfinished or of another kind; the message names the content.
        """
        if Path(path).is_dir():
            return cls(*load_folder(Path(path)))
        return cls(*load_statistics(Path(path)))

    def _sketch(self) -> ImageSketch:
        return ImageSketch(self.fingerprints["image_sketch"])

    def _check_mergeable(self, other: ActivationStatistics) -> None:
        for key in MUST_AGREE:
            mine, theirs = self.fingerprints.get(key), other.fingerprints.get(key)
            if mine != theirs:
                raise StatisticsMismatchError(
                    f"{key} differs: {mine!r} and {theirs!r}. Only statistics gathered from the same model in the "
                    "same way can be merged."
                )
        for key in MUST_AGREE_DATA:
            mine, theirs = self.fingerprints["data"].get(key), other.fingerprints["data"].get(key)
            if mine != theirs:
                raise StatisticsMismatchError(
                    f"data.{key} differs: {mine!r} and {theirs!r}. The images must be prepared in the same way."
                )


def describe_model(fingerprints: dict[str, Any]) -> str:
    """Return the name and revision of the model of ``fingerprints``, for messages."""
    model = fingerprints["model"]
    name = model.get("id") or model.get("architecture") or "a model without a name"
    revision = model.get("revision")
    return f"{name} at {revision[:12]}" if revision else str(name)


def _merged_data(mine: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    if mine == theirs:
        return mine
    parts = [*mine.get("parts", [mine]), *theirs.get("parts", [theirs])]
    shared = {key: mine[key] for key in MUST_AGREE_DATA if key in mine}
    return {**shared, "parts": parts}


def _short(widths: list[int]) -> str:
    if len(set(widths)) == 1:
        return f"{len(widths)} x {widths[0]}"
    return ", ".join(map(str, widths))

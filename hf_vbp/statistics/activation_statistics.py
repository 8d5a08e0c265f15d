"""The statistics of a whole model: what a pass gives, what a file holds, what a plan is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hf_vbp.adapters.registry import find_sites
from hf_vbp.errors import StatisticsError, StatisticsMismatchError
from hf_vbp.statistics.elimination_curve import EliminationCurve
from hf_vbp.statistics.fingerprints import ImageSketch, model_identity, sites_fingerprint
from hf_vbp.statistics.moments import Moments

# Two files are alike, and may be merged, when they agree on these; the rest is counts and provenance.
ALIKE = ("weights", "dtype", "moments", "output_metric", "token_weights")
ALIKE_DATA = ("processor", "transform")


@dataclass(frozen=True, eq=False)
class SiteStatistics:
    """What was seen at one MLP site, over every token of every image.

    Attributes:
        name: Name of the site, for people.
        index: Position of the site in the order of the blocks.
        moments: Moments of the hidden neurons, the inputs of ``fc2``.
        metric: ``G = E[g g^T]``, ``(out, out)`` float64, the mean over the tokens, with ``g`` the gradient of
            the log-likelihood of a label drawn from the model's own prediction with respect to the output of
            the site; ``None`` when it was not asked for.
        halves: Moments of the two halves of the pass; ``None`` when the pass was too short to have two. Where
            ``moments`` has co-moments, so has the first half; those of the second are the rest, and
            :func:`hf_vbp.criteria.base.full_halves` returns them, so that two matrices are held and not three.
        weighted: Moments with co-moments in which tokens count half alike and half by the norm of their
            gradient (``token_weights``), for least squares; ``None`` when not asked for.
        curve: What greedy elimination found at this site, where :func:`hf_vbp.with_curves` has put it.
    """

    name: str
    index: int
    moments: Moments
    metric: torch.Tensor | None = None
    halves: tuple[Moments, Moments] | None = None
    weighted: Moments | None = None
    curve: EliminationCurve | None = None

    def merge(self, other: SiteStatistics) -> SiteStatistics:
        """Return the statistics of both sets of images, without a curve, which is of one set only.

        Raises:
            StatisticsError: The two do not hold the same kinds of statistics.
        """
        metric = None
        if (self.metric is None) != (other.metric is None):
            raise StatisticsError(f"only one of the two holds an output metric at site {self.name}")
        if self.metric is not None and other.metric is not None:
            count = self.moments.count + other.moments.count
            shares = (self.moments.count / count, other.moments.count / count)
            metric = self.metric * shares[0] + other.metric * shares[1]
        # A part too short for halves of its own would unbalance those of the other; it counts in the total only,
        # and the co-moments that the total leaves of the first half are then not those of the second.
        mine, theirs = self.halves, other.halves
        if mine is None or theirs is None:
            one = theirs if mine is None else mine
            halves = None if one is None else _diagonals(one)
        else:
            if (mine[0].comoment is None) != (theirs[0].comoment is None):
                mine, theirs = _diagonals(mine), _diagonals(theirs)
            halves = (mine[0].merge(theirs[0]), mine[1].merge(theirs[1]))
        if (self.weighted is None) != (other.weighted is None):
            raise StatisticsError(f"only one of the two holds weighted moments at site {self.name}")
        weighted = None
        if self.weighted is not None and other.weighted is not None:
            weighted = self.weighted.merge(other.weighted)
        moments = self.moments.merge(other.moments)
        return replace(self, moments=moments, metric=metric, halves=halves, weighted=weighted, curve=None)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        metric = 0 if self.metric is None else self.metric.nbytes
        weighted = 0 if self.weighted is None else self.weighted.nbytes
        return self.moments.nbytes + metric + weighted + sum(half.nbytes for half in self.halves or ())


@dataclass(frozen=True, eq=False)
class ActivationStatistics:
    """The statistics of every MLP site of one model over one set of images.

    Attributes:
        sites: One entry per site, in the order of the blocks.
        fingerprints: What the statistics belong to, ready for JSON: ``weights`` (hash of the site weights),
            ``model`` (id, revision, model_type, architecture), ``dtype``, ``data`` (provenance as given),
            ``images``, ``tokens`` (of the first site), ``moments`` (``"diagonal"`` or ``"full"``),
            ``output_metric`` (``None`` or its seed), ``token_weights`` (``None`` or ``"gradient"``),
            ``image_sketch`` and ``versions``; and, where curves are held, ``curves``, the options that they were
            made with.
    """

    sites: tuple[SiteStatistics, ...]
    fingerprints: dict[str, Any]

    @property
    def images(self) -> int:
        """Number of images that were seen."""
        return int(self.fingerprints["images"])

    @property
    def tokens(self) -> int:
        """Number of tokens that the first site saw (sites of hierarchical models see different numbers)."""
        return self.sites[0].moments.count

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(site.nbytes for site in self.sites)

    def check_model(self, model: nn.Module) -> None:
        """Refuse to be used with a model that the statistics were not gathered from.

        Args:
            model: The model that is about to be planned for or pruned.

        Raises:
            StatisticsMismatchError: Names the fingerprint that differs.
            UnsupportedModelError: ``model`` has no MLP sites.
        """
        found = find_sites(model)
        origin = describe_model(self.fingerprints)
        widths = [site.moments.hidden for site in self.sites]
        model_widths = [site.intermediate_size for site in found]
        if widths != model_widths:
            raise StatisticsMismatchError(
                f"widths differ: the statistics, of {origin}, hold sites of {_short(widths)} hidden neurons, the "
                f"model has {_short(model_widths)}; gather statistics from this model"
            )
        dtype = model_identity(model)["dtype"]
        if dtype != self.fingerprints["dtype"]:
            raise StatisticsMismatchError(
                f"dtype differs: the statistics were gathered in {self.fingerprints['dtype']}, the model is in "
                f"{dtype}; load the model in {self.fingerprints['dtype']}, or gather statistics in {dtype}"
            )
        weights = sites_fingerprint(found)
        if weights != self.fingerprints["weights"]:
            raise StatisticsMismatchError(
                f"weights differ: the statistics were gathered from {origin} with site weights "
                f"{self.fingerprints['weights'][:12]}, this model has {weights[:12]}; gather them from this model"
            )

    def merge(self, other: ActivationStatistics, *, allow_overlap: bool = False) -> ActivationStatistics:
        """Join statistics of two different sets of images, gathered from one model in the same way.

        Args:
            other: The statistics of other images.
            allow_overlap: Count images twice that are in both, instead of refusing.

        Returns:
            New statistics; what the two hold is not changed.

        Raises:
            StatisticsMismatchError: They differ in a fingerprint that must agree, or share images.
        """
        self._check_alike(other)
        sketch, other_sketch = self._sketch(), other._sketch()
        shared = sketch.shared(other_sketch)
        if shared and not allow_overlap:
            raise StatisticsMismatchError(
                f"at least {shared} images are in both sets of statistics and would be counted twice; gather them "
                "from parts of the data set that do not overlap"
            )
        sketch.update(other_sketch.hashes())
        sites = tuple(mine.merge(theirs) for mine, theirs in zip(self.sites, other.sites, strict=True))
        fingerprints = dict(self.fingerprints)
        fingerprints["images"] = self.images + other.images
        fingerprints["tokens"] = sites[0].moments.count
        fingerprints["image_sketch"] = sketch.hashes()
        fingerprints.pop("curves", None)
        fingerprints["data"] = _merged_data(self.fingerprints["data"], other.fingerprints["data"])
        return ActivationStatistics(sites, fingerprints)

    def curves(self, options: Mapping[str, Any]) -> list[EliminationCurve] | None:
        """Return the curves of all sites, or None unless they are held and were made with ``options``."""
        held = [site.curve for site in self.sites if site.curve is not None]
        return held if len(held) == len(self.sites) and self.fingerprints.get("curves") == dict(options) else None

    def save(self, path: str | Path) -> None:
        """Write everything to one safetensors file; see :func:`hf_vbp.statistics.serialization.save_statistics`."""
        from hf_vbp.statistics.serialization import save_statistics

        save_statistics(self, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> ActivationStatistics:
        """Read a file that :meth:`save` wrote; see :func:`hf_vbp.statistics.serialization.load_statistics`."""
        from hf_vbp.statistics.serialization import load_statistics

        return load_statistics(Path(path))

    def _sketch(self) -> ImageSketch:
        return ImageSketch(self.fingerprints["image_sketch"])

    def _check_alike(self, other: ActivationStatistics) -> None:
        for key in ALIKE:
            mine, theirs = self.fingerprints.get(key), other.fingerprints.get(key)
            if mine != theirs:
                raise StatisticsMismatchError(
                    f"{key} differs: {mine!r} and {theirs!r}; only statistics gathered from the same model in the "
                    "same way can be merged"
                )
        for key in ALIKE_DATA:
            mine, theirs = self.fingerprints["data"].get(key), other.fingerprints["data"].get(key)
            if mine != theirs:
                raise StatisticsMismatchError(
                    f"data.{key} differs: {mine!r} and {theirs!r}; the images must be prepared in the same way"
                )


def describe_model(fingerprints: dict[str, Any]) -> str:
    """Return the model of ``fingerprints`` in a few words, for messages and tables."""
    model = fingerprints["model"]
    name = model.get("id") or model.get("architecture") or "a model without a name"
    revision = model.get("revision")
    return f"{name} at {revision[:12]}" if revision else str(name)


def _diagonals(halves: tuple[Moments, Moments]) -> tuple[Moments, Moments]:
    return halves[0].diagonal(), halves[1].diagonal()


def _merged_data(mine: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    if mine == theirs:
        return mine
    parts = [*mine.get("parts", [mine]), *theirs.get("parts", [theirs])]
    shared = {key: mine[key] for key in ALIKE_DATA if key in mine}
    return {**shared, "parts": parts}


def _short(widths: list[int]) -> str:
    if len(set(widths)) == 1:
        return f"{len(widths)} x {widths[0]}"
    return ", ".join(map(str, widths))

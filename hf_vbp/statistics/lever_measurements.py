"""What merging tokens and removing neurons did to a model's output: measured once, read by every later plan."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from hf_vbp.errors import StatisticsError


@dataclass(frozen=True)
class LeverMeasurement:
    """One pruned and merged model, measured on calibration images.

    Attributes:
        merged_tokens: Tokens merged before each block; empty where none are.
        widths: The width of each MLP.
        distance: The mean output distance to the dense model, in nats (:mod:`hf_vbp.output_distance`).
        latency: Conditions, milliseconds and speed-up, where they were measured.
    """

    merged_tokens: tuple[int, ...]
    widths: tuple[int, ...]
    distance: float
    latency: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        latency = {"latency": dict(self.latency)} if self.latency else {}
        return {
            "merged_tokens": list(self.merged_tokens),
            "widths": list(self.widths),
            "distance": self.distance,
            **latency,
        }


@dataclass(frozen=True)
class LeverMeasurements:
    """The measurements of one method on one set of images.

    Attributes:
        method: The fields of the configuration that decide which neurons are removed and how the others are adjusted.
        images: Number of images.
        points: The measured models.
        rounding: The multiple of the widths and the conditions under which it was measured; empty where it was given.
    """

    method: Mapping[str, Any]
    images: int
    points: tuple[LeverMeasurement, ...]
    rounding: Mapping[str, Any] = field(default_factory=dict)

    def distance(self, merged_tokens: Sequence[int], widths: Sequence[int]) -> float | None:
        """Return the distance of a model, measured or interpolated between measured ones of more and fewer neurons.

        Args:
            merged_tokens: Tokens merged before each block.
            widths: The width of each MLP.

        Returns:
            The distance; None where the model is not within the measured ones.
        """
        known = sorted((sum(p.widths), p.distance) for p in self.points if p.merged_tokens == tuple(merged_tokens))
        neurons = sum(widths)
        for count, distance in known:
            if count == neurons:
                return distance
        for (fewer, high), (more, low) in pairwise(known):
            if fewer < neurons < more:
                share = (neurons - fewer) / (more - fewer)
                return high + share * (low - high)
        return None

    def with_points(self, points: Iterable[LeverMeasurement]) -> "LeverMeasurements":
        """Return the measurements with further ones, which replace those of the same model."""
        new = {(point.merged_tokens, point.widths): point for point in (*self.points, *points)}
        return replace(self, points=tuple(new.values()))

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, as it is kept with the statistics."""
        points = [point.to_dict() for point in self.points]
        rounding = {"rounding": dict(self.rounding)} if self.rounding else {}
        return {"method": dict(self.method), "images": self.images, "points": points, **rounding}


def read_lever_measurements(content: Any) -> list[LeverMeasurements]:
    """Return the measurements from their JSON form.

    Args:
        content: A list of results of :meth:`LeverMeasurements.to_dict`.

    Raises:
        StatisticsError: A field is missing or has an invalid value.
    """
    if not isinstance(content, list):
        raise _invalid("a list")
    return [_measurements(entry) for entry in content]


def are_lever_measurements(content: Any) -> bool:
    """Return whether :func:`read_lever_measurements` reads the content."""
    try:
        read_lever_measurements(content)
    except StatisticsError:
        return False
    return True


def _measurements(content: Any) -> LeverMeasurements:
    if not isinstance(content, dict) or not isinstance(content.get("method"), dict):
        raise _invalid("a method")
    images, points = content.get("images"), content.get("points")
    if type(images) is not int or images < 1 or not isinstance(points, list):
        raise _invalid("images and points")
    rounding = content.get("rounding", {})
    if not isinstance(rounding, dict) or (rounding and type(rounding.get("multiple")) is not int):
        raise _invalid("a multiple of the widths")
    if rounding and rounding["multiple"] < 1:
        raise _invalid("a multiple of at least 1")
    return LeverMeasurements(content["method"], images, tuple(_point(point) for point in points), rounding)


def _point(content: Any) -> LeverMeasurement:
    if not isinstance(content, dict):
        raise _invalid("points")
    merged, widths = (content.get(name) for name in ("merged_tokens", "widths"))
    distance, latency = content.get("distance"), content.get("latency", {})
    if not _are_counts(merged) or not _are_counts(widths) or not _is_latency(latency):
        raise _invalid("merged_tokens, widths and latency")
    if isinstance(distance, bool) or not isinstance(distance, int | float) or not 0 <= distance <= sys.float_info.max:
        raise _invalid("a distance of at least 0")
    return LeverMeasurement(tuple(content["merged_tokens"]), tuple(content["widths"]), float(distance), latency)


def _is_latency(latency: Any) -> bool:
    if not isinstance(latency, dict):
        return False
    figures = [latency[name] for name in ("speedup", "dense_ms", "pruned_ms") if name in latency]
    return all(
        isinstance(figure, int | float) and not isinstance(figure, bool) and 0 < figure <= sys.float_info.max
        for figure in figures
    )


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(count) is int and count >= 0 for count in values)


def _invalid(expected: str) -> StatisticsError:
    return StatisticsError(
        f"The measurements of merged tokens are damaged: expected {expected}. Gather the statistics again."
    )

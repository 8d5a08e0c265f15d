"""Find the columns of a data set that hold the images and the labels."""

from collections.abc import Mapping
from typing import Any

from hf_vbp.errors import DataError

IMAGE_NAMES = ("image", "img", "pixel_values", "jpg", "jpeg", "png", "webp", "picture", "photo")
LABEL_NAMES = ("label", "labels", "cls", "class", "fine_label", "target")
PREPARED = "pixel_values"
"""The column of images that were prepared for a model already."""


def read_features(dataset: Any, name: str) -> Mapping[str, Any]:
    """Return the columns and their types; None for types that a stream does not declare."""
    if dataset.features is not None:
        return dict(dataset.features)
    first = next(iter(dataset), None)
    if first is None:
        raise DataError(f"The data set {name} is empty: give one with images.")
    return dict.fromkeys(first)


def image_column(features: Mapping[str, Any], asked: str | None, name: str) -> str:
    """Return the column of the images: the one that was named, has the type ``Image``, or a usual name.

    Raises:
        DataError: There is none, or several.
    """
    import datasets

    if asked is not None:
        if asked not in features:
            raise DataError(f"The data set {name} has no column {asked!r}: its columns are {_listed(features)}.")
        return asked
    images = [column for column, feature in features.items() if isinstance(feature, datasets.Image)]
    candidates = images or [column for column in features if column.casefold() in IMAGE_NAMES]
    if len(candidates) == 1:
        return candidates[0]
    named = [column for column in IMAGE_NAMES if column in candidates]
    if named:
        return named[0]
    found = f"more than one ({', '.join(candidates)})" if candidates else "none"
    raise DataError(
        f"The data set {name} has no single image column, found {found} among {_listed(features)}: name it with "
        f"image_column."
    )


def label_column(features: Mapping[str, Any], asked: str | None, image_column: str, name: str) -> str | None:
    """Return the column of the labels: the one that was named, has the type ``ClassLabel``, or a usual name.

    Returns:
        The column, which may be ``column.field`` where it was named so; None where there is none.

    Raises:
        DataError: There is no such column, or there are several.
    """
    import datasets

    if asked is not None:
        if asked.split(".")[0] not in features and asked not in features:
            raise DataError(f"The data set {name} has no column {asked!r}: its columns are {_listed(features)}.")
        return asked
    classes = [column for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    candidates = classes or [
        column for column in features if column.casefold() in LABEL_NAMES and column != image_column
    ]
    if len(candidates) <= 1:
        return candidates[0] if candidates else None
    named = [column for column in LABEL_NAMES if column in candidates]
    if named:
        return named[0]
    raise DataError(
        f"The data set {name} has several label columns ({', '.join(candidates)}): name one with label_column."
    )


def _listed(features: Mapping[str, Any]) -> str:
    return ", ".join(features)

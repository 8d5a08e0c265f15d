"""From the labels of a data set to the ids of a model."""

from collections.abc import Mapping, Sequence
from typing import Any

from hf_vbp.data.decoding import StreamedLabelError
from hf_vbp.data.labels import LABEL_OPTIONS, are_ids, first_names, is_number, label_ids, normalize
from hf_vbp.errors import LabelError


class LabelTable:
    """Maps the labels of records to ids of the model, by the names of the classes.

    Args:
        id2label: The labels of the model.
        class_names: The classes of the data set: all names that the labels take, or the names of its numbers. None
            where they are not known beforehand: names are then matched one by one, and numbers are ids of the model.
        source: The name of the data set for an error.
        text: Whether the labels are names, rather than numbers that ``class_names`` names.
        given: The names of numbers, from the caller. They replace those of the data set; classes that are named by
            number are read as such numbers too.
        label_map: Classes of the data set, and the label or id of the model that each is.

    Attributes:
        how: How labels are read, for the provenance.
        note: A sentence for the user where names of classes are read as ids of the model; None otherwise.

    Raises:
        LabelError: A class does not match.
    """

    def __init__(
        self,
        id2label: Mapping[int, str] | Mapping[str, str],
        class_names: Sequence[str] | None,
        source: str,
        *,
        text: bool = False,
        given: Sequence[str] | None = None,
        label_map: Mapping[str, str | int] | None = None,
    ) -> None:
        self._labels = {int(index): str(name) for index, name in id2label.items()}
        self._source = source
        self._mapped = self._map_ids(label_map or {})
        numbered = given if given is not None else None if text else class_names
        self._by_number = None if numbered is None else self._ids(numbered)
        self._by_name: dict[str, int] = {}
        self.note: str | None = None
        self.how = "as given" if class_names is None and given is None else "names"
        if numbered is not None:
            self._by_name = dict(zip(map(normalize, numbered), self._by_number or (), strict=True))
            self._note_numbers(numbered)
        if text and class_names is not None:
            self._match_text(class_names, given)
        if label_map is not None:
            self._check_map(class_names, given, label_map)

    def __call__(self, label: int | str | None, name: str) -> int:
        """Return the id in the model of the label of the image called ``name``.

        Raises:
            StreamedLabelError: It has no label, or one that the model does not have.
        """
        if isinstance(label, bytes):
            label = label.decode(errors="replace")
        if isinstance(label, str):
            return self._named(label, name)
        if label is None:
            raise StreamedLabelError(f"{name} has no label: give it one, or leave it out of the data set.")
        if isinstance(label, bool) or not hasattr(label, "__index__"):
            raise StreamedLabelError(f"{name} has the label {label!r}, which is neither a number nor a name.")
        number = int(label)
        if self._by_number is None and str(number) in self._mapped:
            return self._mapped[str(number)]
        known = len(self._labels) if self._by_number is None else len(self._by_number)
        if not 0 <= number < known:
            raise StreamedLabelError(
                f"{name} has the label {number}, but there are {known} classes, from 0: data sets mark a split "
                f"without labels like this; choose another split, or another label_column."
            )
        return number if self._by_number is None else self._by_number[number]

    def _named(self, label: str, name: str) -> int:
        key = normalize(label)
        if key not in self._by_name:
            try:
                self._by_name[key] = self._ids([label])[0]
            except LabelError:
                raise StreamedLabelError(
                    f"In {self._source}: the class {label!r} of {name} matches no label of the model; its labels are "
                    f"{first_names([self._labels[index] for index in sorted(self._labels)])}: {LABEL_OPTIONS}."
                ) from None
        return self._by_name[key]

    def _match_text(self, class_names: Sequence[str], given: Sequence[str] | None) -> None:
        unknown = [name for name in class_names if normalize(name) not in self._by_name]
        if self._by_number is not None and unknown and all(is_number(name, len(self._by_number)) for name in unknown):
            self.how = "numbers of class_names"
            ids = [self._by_number[int(name)] for name in unknown]
        elif unknown:
            ids = self._ids(unknown, len(class_names))
            self._note_numbers(unknown)
        else:
            ids = []
        self._by_name |= dict(zip(map(normalize, unknown), ids, strict=True))

    def _ids(self, names: Sequence[str], total: int | None = None) -> list[int]:
        """Return the ids of classes: those of the map, and the others by name."""
        others = [name for name in names if normalize(name) not in self._mapped]
        found = iter(label_ids(others, self._labels, total or len(names)) if others or not names else ())
        return [self._mapped[normalize(name)] if normalize(name) in self._mapped else next(found) for name in names]

    def _note_numbers(self, names: Sequence[str]) -> None:
        others = [name for name in names if normalize(name) not in self._mapped]
        if are_ids(others, self._labels):
            self.how = "names as ids"
            first, last = min(others, key=int), max(others, key=int)
            self.note = f"The classes {first!r} to {last!r} of {self._source} are read as ids of the model."

    def _map_ids(self, label_map: Mapping[str, str | int]) -> dict[str, int]:
        """Return the ids of the classes in the map, by the normalized name of the class."""
        found = {}
        for name, label in label_map.items():
            try:
                value = label if isinstance(label, int) else label_ids([label], self._labels)[0]
            except LabelError as error:
                raise LabelError(f"label_map names the label {label!r} for the class {name!r}: {error}") from error
            if value not in self._labels:
                raise LabelError(
                    f"label_map gives the id {value} for the class {name!r}, but the model has {len(self._labels)} "
                    f"classes, from 0."
                )
            found[normalize(name)] = value
        return found

    def _check_map(
        self, class_names: Sequence[str] | None, given: Sequence[str] | None, label_map: Mapping[str, Any]
    ) -> None:
        """Refuse a map that has none of the classes: a map of another data set would otherwise have no effect."""
        known = [*(class_names or ()), *(given or ())]
        if known and not {normalize(name) for name in known} & set(self._mapped):
            raise LabelError(
                f"label_map names none of the classes of {self._source}: it has {first_names(list(label_map))}, the "
                f"data set {first_names(known)}."
            )

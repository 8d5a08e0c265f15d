"""Match the classes of a data set with the labels of a model: by name or WordNet id, never by position in a listing.

An image folder numbers its classes in the order of its folders, and a subset of ImageNet-1k has fewer folders than the
model has labels: numbers taken from such a listing are silently wrong. So names are matched, and a class that
does not match is an error. Classes that are named by number, ``0`` to ``11``, are ids of the model by their value.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources

from hf_vbp.errors import LabelError

_WORDNET_ID = re.compile(r"n\d{8}")
_PLACEHOLDER = re.compile(r"label \d+")
# Labels that distinguish the order of ImageNet-1k from any other: a model that has one of them elsewhere numbers its
# classes differently, and WordNet ids must not be translated by position.
_ANCHORS = {1: "goldfish", 130: "flamingo", 291: "lion", 340: "zebra", 508: "computer keyboard", 954: "banana"}
_SHOWN = 5
_NUMBER = re.compile(r"[0-9]{1,9}")

LABEL_OPTIONS = (
    "rename the classes, give the class names of the model in order of id with model_labels (--model-labels FILE), or "
    "map classes to labels with label_map (--label-map FILE)"
)
"""Advice for classes that do not match."""


@cache
def imagenet_wordnet_ids() -> tuple[str, ...]:
    """Return the 1,000 WordNet ids of ImageNet-1k, sorted: the n-th (from 0) is class n."""
    text = resources.files("hf_vbp.data").joinpath("imagenet_wnids.txt").read_text(encoding="ascii")
    return tuple(text.split())


def label_ids(
    class_names: Sequence[str], id2label: Mapping[int, str] | Mapping[str, str], total: int | None = None
) -> list[int]:
    """Return the id in the model of each class of a data set.

    Names are compared without regard to case, underscores, hyphens and spaces. A label may list synonyms, as
    ImageNet's do (``"tench, Tinca tinca"``): the whole text is compared first, then the synonyms. Class names
    that are WordNet ids (``n01440764``) are matched with the labels themselves where those are WordNet ids,
    and otherwise with the 1,000 classes of ImageNet-1k in their standard order. Classes that are named by number are
    the ids of the model, see :func:`are_ids`.

    Args:
        class_names: The classes: names of folders or of a ``datasets.ClassLabel``.
        id2label: The labels of the model, as in its config.
        total: The number of all classes for an error, where these are some of them.

    Raises:
        LabelError: A class matches no label, or several.
    """
    labels = {int(index): str(name) for index, name in id2label.items()}
    if not class_names or not labels:
        raise LabelError(
            f"There is nothing to match: the data set has {len(class_names)} classes and the model "
            f"{len(labels)} labels; name the classes, or give the class names of the model with model_labels "
            f"(--model-labels FILE)."
        )
    if all(_WORDNET_ID.fullmatch(name) for name in class_names):
        return _match_wordnet_ids(class_names, labels, total or len(class_names))
    if are_ids(class_names, labels):
        return [int(name) for name in class_names]
    return _match_names(class_names, labels, total or len(class_names))


def is_number(name: str, classes: int) -> bool:
    """Whether a class is named by a number below the number of classes."""
    return _NUMBER.fullmatch(name) is not None and int(name) < classes


def are_ids(class_names: Sequence[str], labels: Mapping[int, str]) -> bool:
    """Whether the classes are named by ids of a model: all of them, and no label of the model is a number itself."""
    return (
        bool(class_names)
        and all(_NUMBER.fullmatch(name) and int(name) in labels for name in class_names)
        and len({int(name) for name in class_names}) == len(set(class_names))
        and not any(_NUMBER.fullmatch(synonym) for label in labels.values() for synonym in _synonyms(label))
    )


def _match_wordnet_ids(class_names: Sequence[str], labels: dict[int, str], total: int) -> list[int]:
    own = {name: index for index, name in labels.items() if _WORDNET_ID.fullmatch(name)}
    known = own or {wordnet_id: index for index, wordnet_id in enumerate(imagenet_wordnet_ids())}
    if not own:
        _check_imagenet_order(class_names, labels, total)
    missing = [name for name in class_names if name not in known]
    if missing:
        raise _mismatch(missing, total, labels, "are not WordNet ids that the model has labels for")
    return [known[name] for name in class_names]


def _check_imagenet_order(class_names: Sequence[str], labels: dict[int, str], total: int) -> None:
    """Refuse to translate WordNet ids by position for a model that is not ImageNet-1k in its usual order."""
    if len(labels) != len(imagenet_wordnet_ids()):
        raise _mismatch(
            class_names,
            total,
            labels,
            f"are WordNet ids, which are the 1,000 classes of ImageNet-1k, but the model has {len(labels)}",
        )
    table = _by_name(labels)
    for position, anchor in _ANCHORS.items():
        found = table.get(anchor)
        if found and position not in found:
            raise LabelError(
                f"The classes are WordNet ids, but the labels of the model are not in the order of ImageNet-1k "
                f"({anchor!r} is label {min(found)}, not {position}): name the classes as the model does, or map them "
                f"to its labels with label_map (--label-map FILE)."
            )


def are_placeholders(names: Iterable[str]) -> bool:
    """Return whether all labels are those of a config that names no classes, such as ``LABEL_0``."""
    return all(_PLACEHOLDER.fullmatch(normalize(name)) for name in names)


def _match_names(class_names: Sequence[str], labels: dict[int, str], total: int) -> list[int]:
    whole: dict[str, set[int]] = defaultdict(set)
    for index, name in labels.items():
        whole[normalize(name)].add(index)
    synonyms = _by_name(labels)
    candidates = [_candidates(name, whole, synonyms) for name in class_names]
    missing = [name for name, found in zip(class_names, candidates, strict=True) if not found]
    if missing:
        reason = "have no label of that name in the model"
        if are_placeholders(labels.values()):
            reason = "cannot be matched: the model's labels are placeholders, its config names no classes"
        raise _mismatch(missing, total, labels, reason)
    candidates = _settle_by_position(candidates, len(labels))
    for name, found in zip(class_names, candidates, strict=True):
        if len(found) > 1:
            ids = ", ".join(str(index) for index in sorted(found))
            raise LabelError(
                f"The class {name!r} may be any of the labels {ids} of the model, which share that name: name the "
                f"classes "
                f"by WordNet id or by the full text of the label, or map them to ids with label_map (--label-map "
                f"FILE)."
            )
    return [next(iter(found)) for found in candidates]


def _candidates(name: str, whole: Mapping[str, set[int]], synonyms: Mapping[str, set[int]]) -> set[int]:
    """Return the labels that have the whole text of the class, else those that share most of its synonyms."""
    exact = whole.get(normalize(name))
    if exact:
        return exact
    votes: dict[int, int] = defaultdict(int)
    for synonym in _synonyms(name):
        for index in synonyms.get(synonym, ()):
            votes[index] += 1
    most = max(votes.values(), default=0)
    return {index for index, count in votes.items() if count == most}


def _settle_by_position(candidates: list[set[int]], labels: int) -> list[set[int]]:
    """Settle shared names where the data set lists all classes of the model in the model's own order.

    ImageNet-1k has two cranes. When every class with a unique name is at the position of its label, the listing is
    that of the model, and the position identifies the crane.
    """
    aligned = len(candidates) == labels and all(position in found for position, found in enumerate(candidates))
    return [{position} for position in range(labels)] if aligned else candidates


def _by_name(labels: Mapping[int, str]) -> dict[str, set[int]]:
    table: dict[str, set[int]] = defaultdict(set)
    for index, name in labels.items():
        for synonym in _synonyms(name):
            table[synonym].add(index)
    return table


def _synonyms(name: str) -> set[str]:
    return {text for part in name.split(",") if (text := normalize(part))}


def normalize(name: str) -> str:
    """Return a name in lower case and composed Unicode, with one space for runs of underscores, hyphens and spaces."""
    composed = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return re.sub(r"[\s_-]+", " ", composed).strip()


def _mismatch(missing: Sequence[str], total: int, labels: Mapping[int, str], reason: str) -> LabelError:
    return LabelError(
        f"{len(missing)} of {total} classes of the data set ({first_names(missing)}) {reason}; "
        f"its labels are {first_names([labels[index] for index in sorted(labels)])}: {LABEL_OPTIONS}."
    )


def first_names(names: Sequence[str]) -> str:
    """Return the first few of some names for a message."""
    shown = ", ".join(repr(name) for name in names[:_SHOWN])
    return f"{shown}, ..." if len(names) > _SHOWN else shown

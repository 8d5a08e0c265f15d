"""Load images from any source."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch.utils.data import DataLoader

from hf_vbp.data.batches import Batch, Encoder, MapImages, Reordered, Sample, StreamedImages, make_loader
from hf_vbp.data.decoding import BadImage, BadImageLog, UnreadableImageError
from hf_vbp.data.iterables import PreparedImages, count_images
from hf_vbp.data.label_files import LabelMap, ModelLabels, read_label_map, read_model_labels
from hf_vbp.data.label_table import LabelTable
from hf_vbp.data.processing import Transform, load_processor
from hf_vbp.data.records import ImageSource
from hf_vbp.data.sources import open_source
from hf_vbp.errors import ConfigurationError, DataError, LabelError
from hf_vbp.inputs.batch import main_input
from hf_vbp.inputs.fit import check_first_image, check_fit

Labels = Mapping[int, str] | Mapping[str, str]
Purpose = Literal["calibration", "evaluation"]
Classes = Literal["model", "data", "none"]
# The first bytes of at most this number of files are read before any work; at about 0.1 ms each this takes a second.
_CHECKED_BEFOREHAND = 10_000


@dataclass
class ImageData:
    """Batches of images, and where they come from.

    It is iterable: it yields the batches of ``loader``, and has their number as its length where it is known.

    Attributes:
        loader: A ``DataLoader`` of ``{"pixel_values": (b, 3, h, w) float32, "labels": (b,) int64}``, the latter only
            where labels were requested and exist; for SigLIP2 and ImageGPT with the inputs that their image processors
            make. ``accelerator.prepare(loader)`` shares it among processes. Each batch has one shape; where the image
            processor keeps the aspect ratio, one ends where the shape changes.
        provenance: Where the images come from and how they were chosen and prepared, as JSON.
        images: The number of images, including bad ones; None for a stream of unknown length.
        labelled: Whether the batches have labels.
        class_names: The names of the labels, in order of id; None where there are none, or they are not known.
        note: A sentence on how the labels are read, where names of classes are ids of the model; None otherwise.
    """

    loader: "DataLoader[Sample]"
    provenance: dict[str, Any]
    images: int | None
    labelled: bool
    log: BadImageLog | None = None
    class_names: tuple[str, ...] | None = None
    note: str | None = None

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.loader)

    def __len__(self) -> int:
        """Return the number of batches, at least; a TypeError where it is not known, as for a stream.

        There are more where images of several shapes divide them.
        """
        return len(self.loader)

    @property
    def bad_images(self) -> list[BadImage]:
        """The images that were skipped in the passes so far (``on_bad_image="skip"``), each once."""
        return self.log.read() if self.log is not None else []


def load_images(
    source: Any,
    processor: Any = None,
    *,
    model: Any = None,
    id2label: Mapping[int, str] | Mapping[str, str] | None = None,
    labels: Classes = "model",
    split: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
    image_column: str | None = None,
    label_column: str | None = None,
    class_names: Sequence[str] | None = None,
    model_labels: ModelLabels | None = None,
    label_map: LabelMap | None = None,
    batch_size: int = 32,
    num_workers: int = 0,
    limit: int | None = None,
    seed: int | None = None,
    shuffle_buffer: int = 1000,
    on_bad_image: Literal["error", "skip"] = "error",
    require_labels: bool = False,
    purpose: Purpose = "calibration",
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> ImageData:
    """Open images from any source, and check everything that can be checked before the model runs.

    Args:
        source: ``"sample"``, a folder of images, WebDataset shards (a path, folder or pattern of tar files), a
            data set ``"name[:config]"`` of the Hub, a folder of ``save_to_disk``, a ``datasets`` data set, or an
            iterable of dicts with ``pixel_values``.
        processor: The image processor of the model (its Pillow backend is used), or a function from a Pillow
            image to ``(3, h, w)``. Not needed for dicts with ``pixel_values``.
        model: The model. Its processor is loaded from its checkpoint where none is given, with
            ``purpose="evaluation"`` its labels are matched, and images that it cannot take are refused.
        id2label: The labels of the model. When given, the classes of the data set are matched with them by name or
            WordNet id, and batches have labels; otherwise there are none.
        labels: What labels are ids of: the classes of the ``"model"``; those of the ``"data"``, in their order there,
            for models without classes; or ``"none"``, for batches without labels.
        split: The split; by default the one that suits ``purpose``, if there is one.
        revision: The revision of a data set on the Hub.
        streaming: Read a data set of the Hub as a stream, without storing it first.
        image_column: The column with the images; by default found by its type or usual names. In shards, the
            extension of the images.
        label_column: The column with the labels, likewise; ``"json.label"`` reads a field of one. In a folder, the
            column of ``metadata.csv``.
        class_names: The names of the numbers in the label column, or of classes that are named by number, where the
            data set does not have them. Numbers without names are ids of the model.
        model_labels: The class names of the model in order of id, in place of those of its config: a sequence, or a
            file with one name per line or JSON.
        label_map: A map from classes of the data set to labels or ids of the model, or a file with it (a JSON object,
            or a class, a tab and a label on each line). Other classes are matched by name.
        batch_size: Images in a batch.
        num_workers: Processes that decode; 0 decodes in this one.
        limit: The maximum number of images. They are drawn at random, so that a folder in the order of its
            classes does not give one class only: with ``seed``, or 0 where none is given.
        seed: Shuffles the images; recorded. Without ``seed`` and ``limit`` they keep their order.
        shuffle_buffer: Number of examples in the shuffle buffer of a stream.
        on_bad_image: ``"error"`` stops at a file that is not an image; ``"skip"`` skips it and lists it in
            ``bad_images``.
        require_labels: Refuse data without labels.
        purpose: The purpose of the images, which decides the split where none is named.
        token: Access token for the Hub; by default the one that huggingface_hub finds.
        cache_dir: Cache of the data set and the image processor from the Hub; by default those of their libraries.

    Raises:
        DataError: The source cannot be found, read or used. ``UnreadableImageError`` names a bad image.
        LabelError: The classes of the data set do not match the labels of the model.
        ConfigurationError: Invalid option.

    Example:
        >>> import hf_vbp
        >>> from transformers import AutoModelForImageClassification
        >>> model = AutoModelForImageClassification.from_pretrained(hf_vbp.sample_model_path())
        >>> images = hf_vbp.load_images("sample", model=model, purpose="evaluation")
        >>> sorted(next(iter(images.loader)))
        ['labels', 'pixel_values']
    """
    _check_options(batch_size, num_workers, limit, on_bad_image)
    _check_classes(labels, id2label, model_labels)
    if labels == "model":
        id2label = _model_labels(id2label, model, model_labels, purpose, require_labels)
    labelled = id2label is not None or labels == "data"
    seed = 0 if seed is None and limit is not None else seed
    hub = {"token": token, "cache_dir": None if cache_dir is None else os.fspath(cache_dir)}
    opened = open_source(
        source,
        split=split,
        revision=revision,
        streaming=streaming,
        purpose=purpose,
        columns=(image_column, label_column),
        shuffle_buffer=shuffle_buffer,
        wants_labels=labelled,
        hub=hub,
    )
    if opened is None:
        return _prepared(source, model, labelled=labelled, batch_size=batch_size, limit=limit)
    if labels == "data":
        id2label = _own_classes(opened, class_names)
    table = _labels(opened, id2label, require_labels, class_names, label_map)
    transform = None if opened.prepared else _transform(processor, model, opened.name, hub)
    log = BadImageLog() if on_bad_image == "skip" else None
    chosen = _choose(opened, limit, seed, log is None)
    encode = Encoder(transform, table)
    first = _first(opened, chosen, encode, skip=log is not None)
    if model is not None and first.ndim == 3:
        check_fit(model, first, opened.name)
    loader = make_loader(_dataset(opened, chosen, encode, log), batch_size, _workers(chosen, num_workers))
    known: dict[str, Any] = {} if table is None else {"class_names": _in_order(id2label or {}), "note": table.note}
    provenance = _provenance(opened, chosen, encode, first, limit, seed)
    return ImageData(loader, provenance, chosen.images, table is not None, log, **known)


def _workers(chosen: ImageSource, requested: int) -> int:
    return requested if chosen.shards is None else min(requested, chosen.shards)


def _provenance(
    opened: ImageSource, chosen: ImageSource, encode: Encoder, first: torch.Tensor, limit: int | None, seed: int | None
) -> dict[str, Any]:
    shape = {"shape": list(first.shape)}
    return chosen.provenance | {
        "images": chosen.images,
        "available": opened.images,
        "limit": limit,
        "seed": seed,
        "labels": None if encode.table is None else encode.table.how,
        "processor": shape if encode.transform is None else encode.transform.describe() | shape,
    }


def _check_classes(labels: Classes, id2label: object, model_labels: object) -> None:
    if labels not in get_args(Classes):
        raise ConfigurationError(f'labels is {labels!r}: it must be "model", "data" or "none".')
    if labels != "model" and (id2label is not None or model_labels is not None):
        raise ConfigurationError(
            f'id2label and model_labels name the classes of a model, which labels="{labels}" does not use: '
            "leave them out."
        )


def _check_options(batch_size: int, num_workers: int, limit: int | None, on_bad_image: str) -> None:
    for name, value, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0), ("limit", limit, 1)):
        if value is not None and value < least:
            raise ConfigurationError(f"{name} is {value}: it must be at least {least}.")
    if on_bad_image not in ("error", "skip"):
        raise ConfigurationError(f'on_bad_image is {on_bad_image!r}: it must be "error" or "skip".')


def _transform(processor: Any, model: Any, name: str, hub: Mapping[str, Any]) -> Transform:
    if processor is None and model is not None:
        processor = load_processor(model.name_or_path, **hub)
    if processor is None:
        raise ConfigurationError(f"The images of {name} need a processor: pass that of the model, or the model.")
    return Transform(processor)


def _model_labels(
    id2label: Labels | None, model: Any, model_labels: ModelLabels | None, purpose: str, require_labels: bool
) -> Labels | None:
    """Return the labels of the model, None where batches have no labels."""
    own = None if model is None else getattr(model.config, "id2label", None)
    if id2label is None and own is not None and purpose == "evaluation":
        id2label = own
    if model_labels is not None and (id2label is not None or require_labels or purpose == "evaluation"):
        known = id2label or own
        id2label = read_model_labels(model_labels, None if known is None else len(known))
    if require_labels and not id2label:
        raise ConfigurationError(
            "Labels are required, but the labels of the model are not known: pass id2label, or model_labels."
        )
    return id2label


def _own_classes(opened: ImageSource, class_names: Sequence[str] | None) -> Labels | None:
    """Return the classes of a data set by their ids, None where it has no labels."""
    if not opened.labelled:
        return None
    names = opened.class_names if class_names is None else class_names
    if names is None:
        raise LabelError(
            f"The classes of {opened.name} are not known before it is read: name them in order with class_names."
        )
    return dict(enumerate(names))


def _in_order(id2label: Labels) -> tuple[str, ...]:
    return tuple(name for _, name in sorted((int(index), str(name)) for index, name in id2label.items()))


def _labels(
    opened: ImageSource,
    id2label: Labels | None,
    require_labels: bool,
    class_names: Sequence[str] | None,
    label_map: LabelMap | None,
) -> LabelTable | None:
    if require_labels and not opened.labelled:
        advice = (
            "put the images into one folder per class, or give their labels in metadata.csv (file_name, label)"
            if opened.provenance["kind"] == "image_folder"
            else "name the column with label_column"
        )
        raise DataError(f"{opened.name} has no labels, which measuring the accuracy needs: {advice}.")
    if id2label is None or not opened.labelled:
        return None
    if opened.missing_labels:
        raise LabelError(
            f"In {opened.name} some labels are missing (null): remove these rows, or name another label_column."
        )
    mapped = None if label_map is None else read_label_map(label_map)
    try:
        return LabelTable(
            id2label, opened.class_names, opened.name, text=opened.text_labels, given=class_names, label_map=mapped
        )
    except LabelError as error:
        raise LabelError(f"In {opened.name}: {error}") from error


def _choose(opened: ImageSource, limit: int | None, seed: int | None, checked: bool) -> ImageSource:
    """Return the source, shuffled and cut; where asked, check the first bytes of the chosen files."""
    if opened.select is not None:
        return opened.select(limit, seed)
    records: Any = opened.records
    count = len(records)
    order = range(count) if seed is None else np.random.default_rng(seed).permutation(count)[:limit].tolist()
    if checked and opened.check is not None:
        opened.check(order[:_CHECKED_BEFOREHAND])
    return replace(opened, records=Reordered(records, order), images=len(order))


def _dataset(
    opened: ImageSource, chosen: ImageSource, encode: Encoder, log: BadImageLog | None
) -> MapImages | StreamedImages:
    """Return the torch data set; one without a length where images may be skipped."""
    if isinstance(chosen.records, Sequence) and log is None:
        return MapImages(chosen.records, encode)
    return StreamedImages(chosen.records, encode, log, shared=opened.shards is not None)


def _first(opened: ImageSource, chosen: ImageSource, encode: Encoder, skip: bool) -> torch.Tensor:
    """Return the main input of the first image, its pixels, so that a fault of all images is found before any work.

    Of a stream it is the first before shuffling, so that the shuffle buffer is not filled for it.
    """
    for record in chosen.records if opened.select is None else opened.records:
        try:
            sample = encode(record)
            main: torch.Tensor = sample[main_input(sample)]
            return main
        except UnreadableImageError:
            if not skip:
                raise
    raise DataError(f"{opened.name} gives no image that can be read: give images that Pillow can open.")


def _prepared(source: Any, model: Any, *, labelled: bool, batch_size: int, limit: int | None) -> ImageData:
    """Wrap images that were prepared already; a ``DataLoader`` without a limit is used directly."""
    if model is not None:
        check_first_image(model, source)
    images = count_images(source)
    images = images if limit is None or images is None else min(images, limit)
    provenance = {
        "source": type(source).__name__,
        "kind": "prepared",
        "split": None,
        "revision": None,
        "fingerprint": None,
        "images": images,
        "available": None,
        "limit": limit,
        "seed": None,
        "labels": "as given" if labelled else None,
        "processor": None,
    }
    if isinstance(source, DataLoader) and limit is None:
        return ImageData(source, provenance, images, labelled)
    prepared = PreparedImages(source, limit, labelled=labelled)
    return ImageData(make_loader(prepared, batch_size, 0), provenance, images, labelled)

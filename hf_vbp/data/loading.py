"""One function for all sources of images."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from torch.utils.data import DataLoader

from hf_vbp.data.batches import Batch, Encoder, LabelTable, MapImages, Reordered, Sample, StreamedImages, make_loader
from hf_vbp.data.decoding import BadImage, BadImageLog, UnreadableImageError
from hf_vbp.data.iterables import PreparedImages, count_images
from hf_vbp.data.processing import Transform, load_processor
from hf_vbp.data.records import ImageSource
from hf_vbp.data.sources import open_source
from hf_vbp.errors import ConfigurationError, DataError, LabelError

Purpose = Literal["calibration", "evaluation"]
# Up to so many files their first bytes are read before any work; at about 0.1 ms each that takes a second.
_CHECKED_BEFOREHAND = 10_000


@dataclass
class ImageData:
    """Batches of images, and where they come from.

    It is iterable: it yields the batches of ``loader``, and has their number as its length where it is known.

    Attributes:
        loader: A ``DataLoader`` of ``{"pixel_values": (b, 3, h, w) float32, "labels": (b,) int64}``, the latter only
            where labels were requested and exist. ``accelerator.prepare(loader)`` shares it among processes.
        provenance: Where the images come from and how they were chosen and prepared, as JSON.
        images: How many there are, bad ones included; None for a stream that does not say.
        labelled: Whether the batches have labels.
    """

    loader: "DataLoader[Sample]"
    provenance: dict[str, Any]
    images: int | None
    labelled: bool
    log: BadImageLog | None = None

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.loader)

    def __len__(self) -> int:
        """Return the number of batches; a TypeError where it is not known, as for a ``DataLoader`` of a stream."""
        return len(self.loader)

    @property
    def bad_images(self) -> list[BadImage]:
        """The images that were left out in the passes made so far (``on_bad_image="skip"``), each once."""
        return self.log.read() if self.log is not None else []


def load_images(
    source: Any,
    processor: Any = None,
    *,
    model: Any = None,
    id2label: Mapping[int, str] | Mapping[str, str] | None = None,
    split: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
    image_column: str | None = None,
    label_column: str | None = None,
    class_names: Sequence[str] | None = None,
    batch_size: int = 32,
    num_workers: int = 0,
    limit: int | None = None,
    seed: int | None = None,
    shuffle_buffer: int = 1000,
    on_bad_image: Literal["error", "skip"] = "error",
    require_labels: bool = False,
    purpose: Purpose = "calibration",
) -> ImageData:
    """Open images and check what can be checked before the model runs.

    Args:
        source: ``"sample"``, a folder of images, WebDataset shards (a path, folder or pattern of tar files), a
            data set ``"name[:config]"`` of the Hub, a ``datasets`` data set, or an iterable of dicts with
            ``pixel_values``.
        processor: The image processor of the model (its Pillow backend is used), or a function from a Pillow
            image to ``(3, h, w)``. Not needed for dicts with ``pixel_values``.
        model: The model, instead of its processor and labels: the processor is loaded from where the model came
            from, and with ``purpose="evaluation"`` its labels are matched.
        id2label: The labels of the model. Given, the classes of the data set are matched with them by name or
            WordNet id, and batches have labels; else there are none.
        split: The split; without it, the one that suits ``purpose``, if that can be told.
        revision: The revision of a data set on the Hub.
        streaming: Read a data set of the Hub as a stream, without storing it first.
        image_column: The column with the images; found by its type or usual names when not given.
        label_column: The column with the labels, likewise; ``"json.label"`` reaches into one.
        class_names: What numbers in the label column stand for, where the data set does not say. Numbers
            without names are taken as the model's ids.
        batch_size: Images in a batch.
        num_workers: Processes that decode; 0 decodes in this one.
        limit: How many images to take at most. They are drawn at random, so that a folder in the order of its
            classes does not give one class only: with ``seed``, or 0 where none is given.
        seed: Shuffles the images; recorded. Without ``seed`` and ``limit`` they come in their own order.
        shuffle_buffer: From how many examples at a time a stream is shuffled.
        on_bad_image: ``"error"`` stops at a file that is not an image; ``"skip"`` leaves it out, counts and
            names it in ``bad_images``.
        require_labels: Refuse data without labels.
        purpose: What the images are for, which decides the split that is taken by itself.

    Raises:
        DataError: The source cannot be found, read or used. ``UnreadableImageError`` names a bad image.
        LabelError: The classes of the data set do not match the labels of the model.
        ConfigurationError: An option cannot be meant.

    Example:
        >>> import hf_vbp
        >>> from transformers import AutoModelForImageClassification
        >>> model = AutoModelForImageClassification.from_pretrained(hf_vbp.sample_model_path())
        >>> images = hf_vbp.load_images("sample", model=model, purpose="evaluation")
        >>> sorted(next(iter(images.loader)))
        ['labels', 'pixel_values']
    """
    _check_options(batch_size, num_workers, limit, on_bad_image)
    if model is not None and id2label is None and purpose == "evaluation":
        id2label = model.config.id2label
    if require_labels and not id2label:
        raise ConfigurationError("Labels are required, but the model's id2label was not given to match them with.")
    seed = 0 if seed is None and limit is not None else seed
    opened = open_source(
        source,
        split=split,
        revision=revision,
        streaming=streaming,
        purpose=purpose,
        columns=(image_column, label_column),
        shuffle_buffer=shuffle_buffer,
    )
    if opened is None:
        return _prepared(source, labelled=id2label is not None, batch_size=batch_size, limit=limit)
    if class_names is not None:
        opened.class_names = tuple(class_names)
    labels = _labels(opened, id2label, require_labels)
    transform = _transform(processor, model, opened.name)
    log = BadImageLog() if on_bad_image == "skip" else None
    chosen = _choose(opened, limit, seed, log is None)
    encode = Encoder(transform, labels)
    shape = _shape_of_first(opened, chosen, encode, skip=log is not None)
    provenance = chosen.provenance | {
        "images": chosen.images,
        "available": opened.images,
        "limit": limit,
        "seed": seed,
        "labels": None if labels is None else "as given" if opened.class_names is None else "names",
        "processor": transform.describe() | {"shape": shape},
    }
    workers = num_workers if chosen.shards is None else min(num_workers, chosen.shards)
    loader = make_loader(_dataset(opened, chosen, encode, log), batch_size, workers)
    return ImageData(loader, provenance, chosen.images, labelled=labels is not None, log=log)


def _check_options(batch_size: int, num_workers: int, limit: int | None, on_bad_image: str) -> None:
    for name, value, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0), ("limit", limit, 1)):
        if value is not None and value < least:
            raise ConfigurationError(f"{name} is {value}: it must be at least {least}.")
    if on_bad_image not in ("error", "skip"):
        raise ConfigurationError(f'on_bad_image is {on_bad_image!r}: it must be "error" or "skip".')


def _transform(processor: Any, model: Any, name: str) -> Transform:
    if processor is None and model is not None:
        processor = load_processor(model.name_or_path)
    if processor is None:
        raise ConfigurationError(f"The images of {name} need a processor: pass that of the model, or the model.")
    return Transform(processor)


def _labels(
    opened: ImageSource, id2label: Mapping[int, str] | Mapping[str, str] | None, require_labels: bool
) -> LabelTable | None:
    if require_labels and not opened.labelled:
        advice = (
            "put the images into one folder per class"
            if opened.provenance["kind"] == "image_folder"
            else "name the column with label_column"
        )
        raise DataError(f"{opened.name} has no labels, which measuring the accuracy needs: {advice}.")
    if id2label is None or not opened.labelled:
        return None
    try:
        return LabelTable(id2label, opened.class_names, opened.name)
    except LabelError as error:
        raise LabelError(f"In {opened.name}: {error}") from error


def _choose(opened: ImageSource, limit: int | None, seed: int | None, checked: bool) -> ImageSource:
    """Return the source, shuffled and cut; where asked, look at the first bytes of what was chosen."""
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
    """Return the torch data set. Where images may be left out, one of known length would promise too much."""
    if isinstance(chosen.records, Sequence) and log is None:
        return MapImages(chosen.records, encode)
    return StreamedImages(chosen.records, encode, log, shared=opened.shards is not None)


def _shape_of_first(opened: ImageSource, chosen: ImageSource, encode: Encoder, skip: bool) -> list[int]:
    """Decode the first image, so that what is wrong with all of them is found before any work.

    Of a stream it is the first before shuffling, so that the shuffle buffer is not filled for it.
    """
    for record in chosen.records if opened.select is None else opened.records:
        try:
            return list(encode(record)["pixel_values"].shape)
        except UnreadableImageError:
            if not skip:
                raise
    raise DataError(f"{opened.name} gives no image that can be read: give images that Pillow can open.")


def _prepared(source: Any, *, labelled: bool, batch_size: int, limit: int | None) -> ImageData:
    """Wrap images that were prepared already; a ``DataLoader`` without a limit is kept as it is."""
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

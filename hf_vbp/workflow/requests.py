"""Inputs of the commands: the images, and the receiver of progress updates."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from hf_vbp._progress import Progress
from hf_vbp.errors import DataError, UnsupportedModelError
from hf_vbp.workflow.loading import LoadedModel

if TYPE_CHECKING:
    from hf_vbp.calibration.source import Source

_PROMPTS = ("input_points", "input_boxes")
_CENTERS = "[[[[image.width / 2, image.height / 2]]] for image in images]"


class Reporter(Protocol):
    """Receives progress updates; that of the command line shows bars."""

    def say(self, text: str) -> None:
        """Show one remark."""
        ...

    def warn(self, text: str) -> None:
        """Show what the user did not ask for, such as a figure that is left out."""
        ...

    def stage(self, title: str, total: int | None = None) -> AbstractContextManager[Progress]:
        """Open a stage; its value is called with the number of finished items and, where known, of all."""
        ...


@dataclass(frozen=True)
class DataRequest:
    """Images as a user names them.

    Attributes:
        source: A Hub data set ``name[:config]``, an image folder, tar shards, or ``sample``.
        split: The split; by default the one that fits the purpose.
        revision: Revision of the data set on the Hub.
        image_column: Column of the images, where it is ambiguous.
        label_column: Column of the labels, where it is ambiguous.
        streaming: Whether to stream a Hub data set.
        batch_size: Images per batch.
        num_workers: Processes that decode images.
        limit: Use at most this many images.
        seed: Seed of the order.
        on_bad_image: ``"error"`` or ``"skip"``.
        model_labels: File with the class names of the model in order of id, for labelled images.
        label_map: File with a map from classes of the data set to labels or ids of the model.
    """

    source: str
    split: str | None = None
    revision: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    streaming: bool = False
    batch_size: int = 32
    num_workers: int = 0
    limit: int | None = None
    seed: int | None = None
    on_bad_image: Literal["error", "skip"] = "error"
    model_labels: str | None = None
    label_map: str | None = None

    def open(
        self,
        loaded: LoadedModel,
        purpose: Literal["calibration", "evaluation"],
        *,
        labels: Literal["model", "data", "none"] = "model",
        id2label: Mapping[int, str] | None = None,
    ) -> Any:
        """Open the images for one purpose, ``"calibration"`` or ``"evaluation"``.

        A data set on the Hub is read with the token and the cache with which the model was loaded.

        Args:
            loaded: The model with its processor.
            purpose: Decides the split where none is named.
            labels: What labels are ids of: with ``"model"`` the classes of the model, which evaluation images must
                have; with ``"data"`` the classes of the data, where it has some; with ``"none"`` labels are not read.
            id2label: Classes of other images, with which those of these are matched where they have some, in place of
                those of the model.

        Returns:
            A :class:`hf_vbp.data.ImageData`.

        Raises:
            DataError: There are no such images, or the model has no image processor.
            UnsupportedModelError: The model takes more than images.
            LabelError: The classes do not match the labels of the model.
        """
        from hf_vbp.data.loading import load_images

        if loaded.processor is None:
            check_images_alone(loaded)
            raise without_processor(loaded.source)
        check_images_alone(loaded)
        matched = purpose == "evaluation" and labels == "model"
        classes = loaded.model.config.id2label if id2label is None else id2label
        named = self.model_labels if matched and id2label is None else None
        images = load_images(
            self.source,
            loaded.processor,
            model=loaded.model,
            purpose=purpose,
            id2label=classes if matched else None,
            labels=labels,
            require_labels=matched and id2label is None,
            split=self.split,
            revision=self.revision,
            image_column=self.image_column,
            label_column=self.label_column,
            streaming=self.streaming,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            limit=self.limit,
            seed=self.seed,
            on_bad_image=self.on_bad_image,
            model_labels=named,
            label_map=self.label_map if matched else None,
            **loaded.hub,
        )
        if purpose == "calibration" and images.images == 1:
            raise DataError(f"{self.source} gives 1 image, but a variance needs at least 2; some hundreds are usual.")
        return images

    def for_evaluation(self, source: str, split: str | None, limit: int | None) -> "DataRequest":
        """Return the request for other images, read in the same way."""
        return replace(self, source=source, split=split, limit=limit, seed=None)


def with_note(images: Any, reporter: Reporter) -> Any:
    """Report how the labels of images are read, where that is not by name, and return the images.

    Args:
        images: An :class:`hf_vbp.data.ImageData` or :class:`hf_vbp.data.training_images.TrainingImages`.
        reporter: Receives the note.
    """
    if images.note is not None:
        reporter.say(images.note)
    return images


@contextmanager
def late_stage(reporter: Reporter, title: str, total: int | None = None) -> Iterator[Progress]:
    """Open a stage when its first progress arrives, for work that may have nothing to do.

    Args:
        reporter: Receives the stage.
        title: Its title.
        total: The number of all items, where known.
    """
    with ExitStack() as stack:
        opened: list[Progress] = []

        def progress(finished: int, of: int | None) -> None:
            if not opened:
                opened.append(stack.enter_context(reporter.stage(title, total)))
            opened[0](finished, of)

        yield progress


@dataclass(frozen=True)
class CalibrationImages:
    """Calibration images, opened once, when they are first needed.

    Attributes:
        request: The images as the user names them.
        loaded: The model with its processor.
    """

    request: DataRequest
    loaded: LoadedModel

    @cached_property
    def images(self) -> Any:
        """The :class:`hf_vbp.data.ImageData`; see :meth:`DataRequest.open`."""
        return self.request.open(self.loaded, "calibration")

    @cached_property
    def source(self) -> "Source":
        """The images, shared by all processes."""
        from hf_vbp.calibration.source import Source

        return Source.of(self.images)

    def first(self) -> dict[str, Any] | None:
        """Return a batch with the first image; see :meth:`hf_vbp.calibration.source.Source.first`."""
        return self.source.first()


def without_processor(source: str) -> DataError:
    """Return the refusal to prepare images for a model whose image processor is missing or damaged."""
    from hf_vbp.data.processing import load_processor
    from hf_vbp.files.layout import PROCESSORS

    folder = Path(source).expanduser()
    if any((folder / name).is_file() for name in PROCESSORS):
        try:
            load_processor(folder)
        except DataError as error:
            return error
    return DataError(
        f"{source} has no image processor (preprocessor_config.json), so images cannot be prepared for it. Save the "
        "image processor it was trained with next to the model."
    )


def _of_one_image(processor: Any) -> dict[str, Any]:
    """Return what an image processor makes of a gray image; nothing where it makes no inputs of images."""
    from PIL import Image

    from hf_vbp.data.processing import Transform

    if processor is None:
        return {}
    try:
        return Transform(processor).inputs(Image.new("RGB", (64, 48), (128, 128, 128)))
    except (DataError, ValueError, TypeError):
        # One of videos or of other data.
        return {}


def check_images_alone(loaded: LoadedModel) -> None:
    """Refuse a model whose inputs its image processor does not make from images: nothing else makes them here.

    Raises:
        UnsupportedModelError: It takes videos, sounds, texts or prompts too; shows the lines that prune it.
    """
    from hf_vbp.inputs.batch import forward_names
    from hf_vbp.inputs.example import example_batch

    name = f"{loaded.source} ({type(loaded.model).__name__})"
    prompts = [one for one in _PROMPTS if one in forward_names(loaded.model)]
    if prompts:
        # With images alone the masks of no prompt would be measured, which is not how such a model is used.
        raise UnsupportedModelError(
            f"{name} takes prompts with its images ({', '.join(prompts)}), and the command line prepares none. Prune "
            "it from Python with batches that its processor made of images and prompts, here a point at the center of "
            f"each image: {_python_lines(loaded, f'images, input_points={_CENTERS}')}"
        )
    inputs = example_batch(loaded.model)
    pixels = inputs.get("pixel_values")
    if set(inputs) == {"pixel_values"} and pixels is not None and pixels.dim() == 4:
        return
    made = _of_one_image(loaded.processor)
    if inputs.keys() <= made.keys() and all(value.dim() == 1 + made[key].dim() for key, value in inputs.items()):
        return
    shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in inputs.items())
    raise UnsupportedModelError(
        f"{name} takes {shapes}, which its image processor does not make of images alone, and the command "
        "line prepares nothing else. Prune it from Python with batches that its processor made: "
        f"{_python_lines(loaded, '...')}"
    )


def _python_lines(loaded: LoadedModel, arguments: str) -> str:
    """Return the Python lines that prune a model with batches that its processor makes of these arguments."""
    name, source = type(loaded.model).__name__, loaded.source
    return (
        f"import hf_vbp; from transformers import AutoProcessor; from {type(loaded.model).__module__} import {name}; "
        f"model = hf_vbp.from_pretrained({source!r}, auto_class={name}); "
        f"processor = AutoProcessor.from_pretrained({source!r}); "
        f'batches = [dict(processor({arguments}, return_tensors="pt"))]; '
        "result = hf_vbp.prune(model, batches, hf_vbp.VBPConfig(ratio=0.3)); "
        'result.save_pretrained("pruned", processor=processor)'
    )

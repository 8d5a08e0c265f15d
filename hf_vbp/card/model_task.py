"""The class that a card loads a model with, and the task that the Hub files it under."""

from dataclasses import dataclass

# The tasks with an auto class of their own, and their tag on the Hub.
_TASKS = {
    "ImageClassification": "image-classification",
    "SemanticSegmentation": "image-segmentation",
    "UniversalSegmentation": "image-segmentation",
    "InstanceSegmentation": "image-segmentation",
    "DepthEstimation": "depth-estimation",
    "ObjectDetection": "object-detection",
    "VideoClassification": "video-classification",
    "AudioClassification": "audio-classification",
    "MaskedImageModeling": None,
    "PreTraining": None,
}


@dataclass(frozen=True)
class ModelTask:
    """How a model is loaded, and what it does.

    Attributes:
        auto_class: Name of the class that a reader loads it with.
        module: The module that this class is imported from.
        pipeline_tag: The task of the model among those of the Hub; None where none fits.
        sample: What one input is, for instance ``image``.
    """

    auto_class: str
    module: str = "transformers"
    pipeline_tag: str | None = None
    sample: str = "image"


def task_by_name(architecture: str) -> ModelTask:
    """Return the task that the name of a class states, for a class that transformers does not know.

    Args:
        architecture: Name of the class.
    """
    task = next((task for task in _TASKS if f"For{task}" in architecture), None)
    if task is not None:
        sample = {"VideoClassification": "video", "AudioClassification": "recording"}.get(task, "image")
        return ModelTask(f"AutoModelFor{task}", pipeline_tag=_TASKS[task], sample=sample)
    # Classes for other tasks, backbones and towers with a projection belong to no auto class that loads a folder.
    is_base = architecture.endswith("Model")
    is_tower = is_base or "Backbone" in architecture or "Vision" in architecture
    tag = "image-feature-extraction" if is_tower else None
    return ModelTask("AutoModel" if is_base else architecture, pipeline_tag=tag)

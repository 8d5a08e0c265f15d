"""The class that a card loads a model with, and the task that the Hub files it under."""

from dataclasses import dataclass

# The tags of the Hub by auto class. One class may be in several: the first is the narrowest.
TAGS = {
    "AutoModelForImageClassification": "image-classification",
    "AutoModelForZeroShotImageClassification": "zero-shot-image-classification",
    "AutoModelForObjectDetection": "object-detection",
    "AutoModelForZeroShotObjectDetection": "zero-shot-object-detection",
    "AutoModelForImageSegmentation": "image-segmentation",
    "AutoModelForSemanticSegmentation": "image-segmentation",
    "AutoModelForUniversalSegmentation": "image-segmentation",
    "AutoModelForInstanceSegmentation": "image-segmentation",
    "AutoModelForDepthEstimation": "depth-estimation",
    "AutoModelForVideoClassification": "video-classification",
    "AutoModelForAudioClassification": "audio-classification",
    "AutoModelForMaskGeneration": "mask-generation",
    "AutoModelForKeypointDetection": "keypoint-detection",
    "AutoModelForPoseEstimation": "keypoint-detection",
    "AutoModelForImageToImage": "image-to-image",
    "AutoModelForVisualQuestionAnswering": "visual-question-answering",
    "AutoModelForDocumentQuestionAnswering": "document-question-answering",
    "AutoModelForImageTextToText": "image-text-to-text",
}
FEATURES = "image-feature-extraction"
# Auto classes by what one input is, where it is no image.
SAMPLES = {"AutoModelForVideoClassification": "video", "AutoModelForAudioClassification": "recording"}
# The tasks in the names of classes that have an auto class of their own.
_TASKS = (
    "ImageClassification",
    "SemanticSegmentation",
    "UniversalSegmentation",
    "InstanceSegmentation",
    "DepthEstimation",
    "ObjectDetection",
    "VideoClassification",
    "AudioClassification",
    "MaskedImageModeling",
    "PreTraining",
)


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
        auto_class = f"AutoModelFor{task}"
        return ModelTask(auto_class, pipeline_tag=TAGS.get(auto_class), sample=SAMPLES.get(auto_class, "image"))
    # Classes for other tasks, backbones and towers with a projection belong to no auto class that loads a folder.
    is_base = architecture.endswith("Model")
    is_tower = is_base or "Backbone" in architecture or "Vision" in architecture
    tag = FEATURES if is_tower else None
    return ModelTask("AutoModel" if is_base else architecture, pipeline_tag=tag)

"""Images of any source as batches for a model."""

from hf_vbp.data.decoding import BadImage, StreamedLabelError, UnreadableImageError
from hf_vbp.data.loading import ImageData, load_images
from hf_vbp.data.processing import load_processor

__all__ = [
    "BadImage",
    "ImageData",
    "StreamedLabelError",
    "UnreadableImageError",
    "load_images",
    "load_processor",
]

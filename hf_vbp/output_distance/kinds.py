"""The kinds of output, each with its distance."""

from enum import Enum

from hf_vbp.errors import ConfigurationError
from hf_vbp.output_distance.cosines import Cosine, Neighbors
from hf_vbp.output_distance.formula import Formula
from hf_vbp.output_distance.probabilities import Binary, Categorical
from hf_vbp.output_distance.squared_errors import SquaredError, VarianceShare


class OutputKind(Enum):
    """A kind of output; the value is its name in results and on the command line.

    Example:
        >>> import torch
        >>> from hf_vbp.output_distance import OutputKind
        >>> dense, pruned = torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0]])
        >>> figures = OutputKind("logits").formula.distance(dense, pruned)
        >>> sorted(figures), round(float(figures["kl"]), 4)
        (['agreement', 'distance', 'kl'], 0.0671)
    """

    LOGITS = "logits"
    """Classes in the last dimension: images, queries of detectors, tokens of a language model."""
    PIXEL_CLASSES = "pixel_classes"
    """Classes in the second dimension, as ``(images, classes, height, width)``."""
    MULTI_LABEL = "multi_label"
    """Labels in the last dimension that each hold or not."""
    MASKS = "masks"
    """Values of any shape that each hold or not, averaged."""
    REGRESSION = "regression"
    """Numbers in the last dimension, whose squared errors are added."""
    BOXES = "boxes"
    """Coordinates in the last dimension, whose squared errors are added."""
    HEAT_MAPS = "heat_maps"
    """Numbers of any shape, whose squared errors are averaged."""
    DEPTH = "depth"
    """Numbers of any shape, as a share of their variance."""
    FEATURE_MAPS = "feature_maps"
    """Features of any layout, as a share of their variance."""
    TOKENS = "tokens"
    """Features ``(images, tokens, dim)``, as a share of their variance; a mask counts tokens."""
    EMBEDDINGS = "embeddings"
    """Embeddings in the last dimension, compared by their cosine."""
    FEATURES = "features"
    """One feature per image, ``(images, dim)``, compared by its neighbors."""

    @property
    def formula(self) -> Formula:
        """The distance of this kind."""
        return _FORMULAS[self]

    @classmethod
    def _missing_(cls, value: object) -> "OutputKind":
        raise ConfigurationError(
            f"Unknown kind of output {value!r}; expected one of {', '.join(kind.value for kind in cls)}."
        )


_FORMULAS: dict[OutputKind, Formula] = {
    OutputKind.LOGITS: Categorical(),
    OutputKind.PIXEL_CLASSES: Categorical(component_dim=1),
    OutputKind.MULTI_LABEL: Binary(),
    OutputKind.MASKS: Binary(component_dim=None),
    OutputKind.REGRESSION: SquaredError(),
    OutputKind.BOXES: SquaredError(),
    OutputKind.HEAT_MAPS: SquaredError(component_dim=None),
    OutputKind.DEPTH: VarianceShare(),
    OutputKind.FEATURE_MAPS: VarianceShare(),
    OutputKind.TOKENS: VarianceShare(component_dim=-1),
    OutputKind.EMBEDDINGS: Cosine(),
    OutputKind.FEATURES: Neighbors(),
}

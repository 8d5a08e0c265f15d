"""How far two outputs of a model are from each other, by kind of output: cotangents and figures. Pure tensors."""

from hf_vbp.output_distance.cosines import BANK_SIZE, SMALLEST_BANK, Cosine, NeighborBank, Neighbors
from hf_vbp.output_distance.detect import detect_kind
from hf_vbp.output_distance.distance import OutputDistance, OutputPart
from hf_vbp.output_distance.formula import Formula
from hf_vbp.output_distance.kinds import OutputKind
from hf_vbp.output_distance.noise import ImageNoise
from hf_vbp.output_distance.probabilities import Binary, Categorical
from hf_vbp.output_distance.squared_errors import SquaredError, VarianceShare

__all__ = [
    "BANK_SIZE",
    "SMALLEST_BANK",
    "Binary",
    "Categorical",
    "Cosine",
    "Formula",
    "ImageNoise",
    "NeighborBank",
    "Neighbors",
    "OutputDistance",
    "OutputKind",
    "OutputPart",
    "SquaredError",
    "VarianceShare",
    "detect_kind",
]

"""The built-in sample: a small trained ViT and two sets of images that need no download.

README.md in this folder describes their origin and license.
"""

from importlib import resources
from typing import Any

from hf_vbp.errors import DataError

SPLITS = ("calibration", "evaluation")


def sample_model_path() -> str:
    """Return the folder of the sample's checkpoint, a stock ``ViTForImageClassification`` with its processor.

    Example:
        >>> import hf_vbp
        >>> from transformers import AutoModelForImageClassification
        >>> model = AutoModelForImageClassification.from_pretrained(hf_vbp.sample_model_path())
        >>> model.config.intermediate_size
        192
    """
    return str(resources.files("hf_vbp.sample"))


def sample_images(split: str = "calibration") -> Any:
    """Return the images of a split as a ``datasets.Dataset`` with the columns ``image`` and ``label``.

    Args:
        split: ``"calibration"`` or ``"evaluation"``; no digit appears in both.

    Raises:
        DataError: There is no such split.
    """
    import datasets
    from pyarrow import parquet  # type: ignore[import-untyped]

    if split not in SPLITS:
        raise DataError(f"The sample has no split {split!r}; its splits are {', '.join(SPLITS)}.")
    # Read in memory, because the reader of datasets would first write a copy into its cache.
    table = parquet.read_table(f"{sample_model_path()}/{split}.parquet")
    return datasets.Dataset(table, split=datasets.NamedSplit(split))


def open_sample(split: str) -> tuple[Any, dict[str, Any]]:
    """Return the images of a split and their description, as :func:`hf_vbp.load_images` records it."""
    import hashlib
    from pathlib import Path

    dataset = sample_images(split)
    digest = hashlib.sha256((Path(sample_model_path()) / f"{split}.parquet").read_bytes()).hexdigest()
    provenance = {"source": "sample", "kind": "sample", "split": split, "revision": None}
    return dataset, provenance | {"fingerprint": f"sha256:{digest}"}

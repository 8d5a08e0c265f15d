"""What load_images returns, as a caller uses it."""

from pathlib import Path
from typing import Any

import pytest
import torch

import hf_vbp
from hf_vbp.config.requirements import Requirements
from tests.data.helpers import class_folder


def pixels(image: Any) -> torch.Tensor:
    """Return random pixels ``(3, 32, 32)`` that depend on the picture alone."""
    generator = torch.Generator().manual_seed(image.getpixel((0, 0))[0])
    return torch.randn(3, 32, 32, generator=generator)


def test_it_yields_its_batches_and_knows_their_number(tmp_path: Path) -> None:
    data = hf_vbp.load_images(class_folder(tmp_path), pixels, batch_size=5)
    assert len(data) == len(list(data)) == 3
    assert [len(batch["pixel_values"]) for batch in data] == [5, 5, 2]


def test_a_stream_has_no_length(tmp_path: Path) -> None:
    data = hf_vbp.load_images(class_folder(tmp_path), pixels, on_bad_image="skip")
    with pytest.raises(TypeError):
        len(data)
    assert len(list(data)) == 1


def test_it_can_be_given_to_prune_as_it_is(tmp_path: Path, vit: Any) -> None:
    data = hf_vbp.load_images(class_folder(tmp_path / "a" / "photos"), pixels, batch_size=5)
    result = hf_vbp.prune(vit, data, hf_vbp.VBPConfig(ratio=0.5, criterion="variance", compensation="mean"))
    assert result.statistics.fingerprints["data"]["source"] == "a/photos"
    plain = hf_vbp.collect_statistics(vit, list(data.loader), Requirements())
    assert torch.equal(result.statistics.sites[0].moments.mean, plain.sites[0].moments.mean)

"""The result of load_images, as a caller uses it."""

from pathlib import Path
from typing import Any

import pytest
import torch

import hf_vbp
from hf_vbp.config.requirements import Requirements
from hf_vbp.errors import DataError
from tests.conftest import make_model
from tests.data.helpers import class_folder


def pixels(image: Any) -> torch.Tensor:
    """Return random pixels ``(3, 32, 32)`` that depend only on the image."""
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"image_size": 16, "patch_size": 8},
            r"shape \(3, 32, 32\), but ViTForImageClassification takes \(3, 16, 16\)",
        ),
        ({"num_channels": 1}, r"use a processor with 1 channel\(s\) and the size 32 x 32"),
    ],
)
def test_images_that_the_model_cannot_take_are_refused(tmp_path: Path, changes: dict[str, int], message: str) -> None:
    model = make_model(**changes).train()
    model.vit.embeddings.eval()
    with pytest.raises(DataError, match=message) as caught:
        hf_vbp.load_images(class_folder(tmp_path), pixels, model=model)
    assert "\n" not in str(caught.value)
    assert (model.training, model.vit.embeddings.training) == (True, False)


def test_a_model_that_takes_images_of_any_size_is_not_refused(tmp_path: Path) -> None:
    import transformers

    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8, num_labels=3
    )
    model = transformers.Dinov2ForImageClassification(config)
    assert hf_vbp.load_images(class_folder(tmp_path), pixels, model=model).provenance["processor"]["shape"] == [
        3,
        32,
        32,
    ]

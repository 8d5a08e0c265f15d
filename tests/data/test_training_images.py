from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from hf_vbp.data.augmentation import AUGMENTATIONS, Augmentation, crop_box, normalize, output_size
from hf_vbp.data.processing import load_processor
from hf_vbp.data.training_images import AugmentedImages, AugmentedStream, collate_training, open_training_images
from hf_vbp.errors import ConfigurationError, DataError, LabelError
from tests.distillation.helpers import assert_same_parameters, make_trainer, parameters_of
from tests.workflow.finetune.helpers import CLASSES, make_dense, make_images

ID2LABEL = dict(enumerate(CLASSES))


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_processor(make_dense(tmp_path_factory.mktemp("dense") / "model"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images") / "train")


def picture(height: int = 36, width: int = 40, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, size=(height, width, 3)).astype(np.uint8)
    return Image.fromarray(pixels)


def opened(folder: Path, processor: Any, name: str = "plain", *, seed: int = 0, keep: bool = False) -> Any:
    return open_training_images(
        folder,
        augmentation=Augmentation(name, processor, seed=seed),
        id2label=ID2LABEL,
        keep=keep,
    ).dataset


def shown(dataset: Any, epoch: int, *, workers: int = 0) -> list[torch.Tensor]:
    dataset.set_epoch(epoch)
    loader = DataLoader(dataset, batch_size=3, num_workers=workers)
    return [row for batch in loader for row in batch["pixel_values"]]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmented_images_depend_only_on_seed_and_epoch(folder: Path, processor: Any, name: str) -> None:
    first = shown(opened(folder, processor, name), 0)
    assert len(first) == 20
    assert {tuple(image.shape) for image in first} == {(3, 32, 32)}
    assert same(first, shown(opened(folder, processor, name), 0))
    assert same(first, shown(opened(folder, processor, name), 0, workers=2))
    assert same(first, shown(opened(folder, processor, name), 1)) == (name == "none")
    assert same(first, shown(opened(folder, processor, name, seed=1), 0)) == (name == "none")


def test_images_that_are_kept_are_the_same(folder: Path, processor: Any) -> None:
    kept, read = opened(folder, processor, keep=True), opened(folder, processor)
    for epoch in (0, 1, 1, 0):
        assert same(shown(kept, epoch), shown(read, epoch))


def test_plain_is_a_shift_and_a_flip_of_the_processed_image(processor: Any) -> None:
    image, augmentation = picture(), Augmentation("plain", processor)
    prepared = processor(images=image, return_tensors="pt")["pixel_values"][0]
    assert torch.equal(augmentation.prepare(image), prepared)
    places, flips = set(), Counter[bool]()
    for index in range(200):
        augmentation.start(0, index)
        varied = augmentation.vary(prepared)
        # 8 pixels around the middle have no mirrored border, so the shift can be found there.
        found = [
            (down, right, flipped)
            for flipped in (False, True)
            for down in range(-4, 5)
            for right in range(-4, 5)
            if torch.equal(
                (varied.flip(-1) if flipped else varied)[:, 12:20, 12:20],
                prepared[:, 12 + down : 20 + down, 12 + right : 20 + right],
            )
        ]
        assert len(found) == 1
        places.add(found[0][:2])
        flips[found[0][2]] += 1
    assert {down for down, _ in places} == {right for _, right in places} == set(range(-4, 5))
    assert 70 < flips[True] < 130


def test_crops_have_the_documented_shapes() -> None:
    draws = np.random.default_rng(0)
    areas, ratios = [], []
    for _ in range(500):
        top, left, height, width = crop_box(draws, 200, 300)
        assert 0 <= top <= 200 - height
        assert 0 <= left <= 300 - width
        areas.append(height * width / 60000)
        ratios.append(width / height)
    assert 0.07 < min(areas) < 0.15
    assert 0.85 < max(areas) <= 1.001
    assert 0.73 < min(ratios) < max(ratios) < 1.36
    assert crop_box(draws, 10, 1000)[2] == 10


def test_a_crop_of_a_plain_color_equals_the_processed_image(processor: Any) -> None:
    image = Image.new("RGB", (50, 40), (10, 120, 250))
    augmentation = Augmentation("paper", processor, backend="pil")
    expected = processor(images=image, return_tensors="pt")["pixel_values"][0]
    assert torch.allclose(augmentation.prepare(image), expected, atol=1e-6)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_model_of_one_channel_gets_one(name: str) -> None:
    from transformers import ViTImageProcessorPil

    gray = ViTImageProcessorPil(size={"height": 32, "width": 32}, image_mean=[0.5], image_std=[0.5])
    augmentation = Augmentation(name, gray, backend="pil")
    expected = gray(images=Image.new("L", (50, 40), 180), return_tensors="pt")["pixel_values"][0]
    found = augmentation.vary(augmentation.prepare(Image.new("RGB", (50, 40), (180, 180, 180))))
    assert torch.allclose(found, expected, atol=1e-6)


def test_torchvision_and_pillow_crop_the_same_parts(processor: Any) -> None:
    pytest.importorskip("torchvision")
    image = picture(64, 80).resize((320, 256))
    crops = []
    for backend in ("torchvision", "pil"):
        augmentation = Augmentation("paper", processor, backend=backend)
        augmentation.start(0, 1)
        crops.append(augmentation.vary(augmentation.prepare(image)))
    assert crops[0].shape == crops[1].shape
    assert (crops[0] - crops[1]).abs().mean() < 0.02


def test_normalization_is_that_of_the_processor(processor: Any) -> None:
    image = picture(32, 32)
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
    expected = processor(images=image, return_tensors="pt")["pixel_values"][0]
    assert torch.allclose(normalize(pixels, processor), expected, atol=1e-6)
    assert output_size(processor) == (32, 32)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"size": {"shortest_edge": 40}, "do_center_crop": True, "crop_size": {"height": 24, "width": 28}}, (24, 28)),
        ({"size": {"shortest_edge": 40}, "do_center_crop": False}, (40, 40)),
    ],
)
def test_sizes_are_read_from_the_processor(changes: dict[str, Any], expected: tuple[int, int]) -> None:
    class Processor:
        def __init__(self) -> None:
            vars(self).update(changes)

    assert output_size(Processor()) == expected


def test_a_processor_without_a_size_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="does not define the size"):
        Augmentation("paper", lambda image: image)


def test_unknown_choices_are_refused(processor: Any) -> None:
    with pytest.raises(ConfigurationError, match="expected one of paper, plain, none"):
        Augmentation("trivial", processor)
    with pytest.raises(ConfigurationError, match="expected auto, torchvision or pil"):
        Augmentation("paper", processor, backend="cv2")


def test_classes_are_matched_by_name(folder: Path, processor: Any) -> None:
    turned = {index: name for index, name in enumerate(reversed(CLASSES))}
    augmentation = Augmentation("none", processor)
    dataset = open_training_images(folder, augmentation=augmentation, id2label=turned).dataset
    assert [dataset[index]["labels"] for index in (0, 4, 19)] == [4, 3, 0]
    with pytest.raises(LabelError):
        open_training_images(folder, augmentation=augmentation, id2label={0: "oak"})


def make_stream(folder: Path) -> Any:
    import datasets

    rows = [
        {"image": Image.open(path).convert("RGB"), "label": CLASSES.index(path.parent.name)}
        for path in sorted(folder.rglob("*.png"))
    ]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    return datasets.Dataset.from_list(rows, features=features).to_iterable_dataset(num_shards=2)


def test_streams_are_shuffled_again_and_augmented_equally_in_every_run(folder: Path, processor: Any) -> None:
    from hf_vbp.data.loading import load_images

    def stream() -> AugmentedStream:
        augmentation = Augmentation("plain", processor)
        found = load_images(make_stream(folder), augmentation.prepare, id2label=ID2LABEL, seed=0)
        return AugmentedStream(found.loader.dataset, augmentation, 20)

    def labels(dataset: Any, epoch: int) -> list[int]:
        dataset.set_epoch(epoch)
        return [sample["labels"] for sample in dataset]

    assert len(stream()) == 20
    assert same(shown(stream(), 0), shown(stream(), 0))
    assert labels(stream(), 0) == labels(stream(), 0)
    assert labels(stream(), 0) != labels(stream(), 1)
    assert Counter(labels(stream(), 1)) == Counter(labels(stream(), 0))


def test_a_stream_trains_by_epochs_where_its_length_is_known(tmp_path: Path, folder: Path, processor: Any) -> None:
    from hf_vbp.data.loading import load_images

    augmentation = Augmentation("plain", processor)
    found = load_images(make_stream(folder), augmentation.prepare, id2label=ID2LABEL, seed=0)
    stream = AugmentedStream(found.loader.dataset, augmentation, 20)
    trainer = make_trainer(tmp_path, train_dataset=stream, per_device_train_batch_size=10, num_train_epochs=2)
    trainer.train()
    assert (trainer.state.global_step, trainer.state.epoch) == (4, 2.0)


def test_a_run_resumed_within_an_epoch_sees_the_same_augmented_images(
    tmp_path: Path, folder: Path, processor: Any
) -> None:
    settings: dict[str, Any] = {"per_device_train_batch_size": 5, "save_strategy": "steps", "save_steps": 6}

    def trainer(name: str) -> Any:
        return make_trainer(tmp_path / name, train_dataset=opened(folder, processor), **settings)

    whole = trainer("run")
    whole.train()
    again = trainer("run")
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-6"))
    assert whole.state.global_step == 8
    assert_same_parameters(again.model, parameters_of(whole.model))


def test_the_epoch_reaches_the_images(tmp_path: Path, folder: Path, processor: Any) -> None:
    seen = []

    class Watched(AugmentedImages):
        def set_epoch(self, epoch: int) -> None:
            seen.append(epoch)
            super().set_epoch(epoch)

    inner = opened(folder, processor)
    make_trainer(tmp_path, train_dataset=Watched(inner._dataset, inner._augmentation), num_train_epochs=3).train()
    assert list(dict.fromkeys(seen)) == [0, 1, 2]


def test_a_batch_is_that_of_trainer_and_has_one_shape() -> None:
    from transformers import default_data_collator

    samples = [{"pixel_values": torch.full((3, 8, 8), float(number)), "labels": number} for number in range(3)]
    batch, expected = collate_training(samples), default_data_collator(samples)
    assert batch.keys() == expected.keys()
    assert all(torch.equal(batch[name], expected[name]) for name in expected)
    wide = {"pixel_values": torch.zeros(3, 8, 12), "labels": 0}
    with pytest.raises(
        DataError, match=r"several shapes .*\(3, 8, 8\), \(3, 8, 12\).*training takes one: set a fixed"
    ):
        collate_training([*samples, wide])

"""Statistics of DeiT-Tiny over the calibration photographs: ``python real_worker.py ASSETS OUTPUT``."""

import sys
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_vbp.calibration.collect import collect_statistics
from hf_vbp.config.requirements import Requirements
from hf_vbp.distributed import is_main_process

FULL = Requirements(covariances=True, halves=True)


class Photographs(Dataset):  # type: ignore[type-arg]
    def __init__(self, assets: Path) -> None:
        self.files = sorted((assets / "nips17" / "calibration").rglob("*.jpg"))
        self.processor = AutoImageProcessor.from_pretrained(assets / "deit-tiny", backend="pil")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        with Image.open(self.files[index]) as image:
            values = self.processor(image.convert("RGB"), return_tensors="pt")["pixel_values"][0]
        return {"pixel_values": values}


if __name__ == "__main__":
    assets, output = map(Path, sys.argv[1:3])
    model = AutoModelForImageClassification.from_pretrained(assets / "deit-tiny")
    statistics = collect_statistics(model, DataLoader(Photographs(assets), batch_size=16), FULL)
    if is_main_process():
        statistics.save(output)

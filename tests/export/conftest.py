"""A tiny pruned checkpoint and images, exported once."""

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import hf_vbp
from hf_vbp.export.conversion import convert
from hf_vbp.export.files import ExportOptions
from hf_vbp.export.formats import FORMATS
from hf_vbp.export.inputs import traced_inputs
from hf_vbp.export.parity import Timing
from hf_vbp.workflow.export_command import ExportRequest, run_export
from hf_vbp.workflow.requests import DataRequest
from tests.cli.helpers import save_images, save_tiny


@dataclass
class Silent:
    """A reporter that keeps its remarks."""

    texts: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.texts.append(text)

    warn = say

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Any]:
        self.texts.append(title)
        yield lambda done, known=None: None


QUICK = Timing(seconds=0.01, threads=(1, 2))
NO_TIME = Timing(seconds=0)


def export(model: Path | str, **request: Any) -> list[dict[str, Any]]:
    """Export without progress and, unless requested, without timing."""
    request.setdefault("options", ExportOptions(timing=NO_TIME))
    rows: list[dict[str, Any]] = run_export(ExportRequest(str(model), **request), Silent())["exports"]
    return rows


def require_openvino() -> None:
    """Skip where OpenVINO is missing, without importing it: only hf_vbp may do that, without its telemetry."""
    if find_spec("openvino") is None:
        pytest.skip("openvino is not installed")


def files_in(folder: Path) -> dict[str, tuple[int, bytes]]:
    """The files of a folder with their content, to see that nothing was changed; without locks."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_size, path.read_bytes()[-64:])
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(".vbp-lock")
    }


@dataclass(frozen=True)
class Work:
    """Folders of one pruned model."""

    root: Path
    dense: Path
    pruned: Path
    exported: Path
    images: Path
    rows: list[dict[str, Any]]

    def copy(self, name: str) -> Path:
        """A copy of the pruned checkpoint without exported files."""
        return Path(shutil.copytree(self.pruned, self.root / name))


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """A pruned checkpoint of two blocks, and a copy of it with ONNX files in three precisions."""
    root = tmp_path_factory.mktemp("export")
    dense = save_tiny(root / "dense", num_hidden_layers=2)
    images = save_images(root / "images", each=6)
    model = hf_vbp.from_pretrained(dense)
    data = hf_vbp.load_images(images, model=model, labels="none")
    result = hf_vbp.prune(model, data, hf_vbp.VBPConfig(ratio=0.4))
    processor = hf_vbp.data.processing.load_processor(dense)  # type: ignore[attr-defined]
    hf_vbp.save_checkpoint(result, root / "pruned", processor=processor, verify=False)
    exported = Path(shutil.copytree(root / "pruned", root / "exported"))
    with pytest.MonkeyPatch.context() as patch:
        # The times of ten passes on a busy machine are kept.
        patch.setattr("hf_vbp.export.latency.WIDEST", math.inf)
        rows = export(
            exported,
            options=ExportOptions(("int8", "fp16"), minimum_agreement=0.8, timing=QUICK),
            data=DataRequest(str(images)),
            eval_data=DataRequest(str(images)),
            base=str(dense),
        )
    return Work(root, dense, root / "pruned", exported, images, rows)


@pytest.fixture(scope="session")
def program(work: Work) -> Any:
    """The pruned checkpoint, converted to ONNX in this process."""
    model = hf_vbp.from_pretrained(work.pruned)
    return convert(model, traced_inputs(model), FORMATS["onnx"])


def pytorch_logits(folder: Path, pixels: torch.Tensor) -> torch.Tensor:
    """The logits of the checkpoint, loaded as users load it."""
    model = hf_vbp.from_pretrained(folder)
    with torch.no_grad():
        logits: torch.Tensor = model(pixels).logits
    return logits


def read_results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "vbp_results.json").read_text(encoding="utf-8"))
    return found

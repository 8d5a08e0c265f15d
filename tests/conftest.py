"""Tiny models, made here: nothing is downloaded, and the real weights are optional."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Runs that are compared bit for bit, in this process and in others, must not share the cores in another way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import HealthCheck, settings

# How long a machine takes to draw an example is no property of the code.
settings.register_profile("any_machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any_machine")

TINY: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 5,
}


def make_model(kind: str = "vit", *, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """Return a tiny random model: ``vit``, ``vit-backbone``, ``deit``, ``deit-teacher`` or ``deit-backbone``."""
    import transformers

    config_name, model_name = {
        "vit": ("ViTConfig", "ViTForImageClassification"),
        "vit-backbone": ("ViTConfig", "ViTModel"),
        "deit": ("DeiTConfig", "DeiTForImageClassification"),
        "deit-teacher": ("DeiTConfig", "DeiTForImageClassificationWithTeacher"),
        "deit-backbone": ("DeiTConfig", "DeiTModel"),
    }[kind]
    torch.manual_seed(seed)
    config = getattr(transformers, config_name)(**{**TINY, **changes})
    model = getattr(transformers, model_name)(config)
    with torch.no_grad():
        # The library's init (std 0.02) leaves hidden neurons all but constant; spread them as training does.
        for name, parameter in model.named_parameters():
            if "mlp" in name or "dense" in name:
                parameter.normal_(0, 0.3)
    return model.to(dtype).eval()


@pytest.fixture
def vit() -> Any:
    """A tiny ViTForImageClassification in fp32."""
    return make_model("vit")


@pytest.fixture
def batches() -> list[dict[str, torch.Tensor]]:
    """Five unequal batches of random images ``(n, 3, 32, 32)`` with labels, 30 images in all."""
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "pixel_values": torch.randn(size, 3, 32, 32, generator=generator),
            "labels": torch.randint(0, 5, (size,), generator=generator),
        }
        for size in (8, 8, 8, 5, 1)
    ]


@pytest.fixture(scope="session")
def real_assets() -> Path:
    """The folder of real weights and photographs, which is not part of the repository."""
    folder = Path(os.environ.get("HF_VBP_REAL_ASSETS", Path(__file__).parents[2] / "shared" / "real"))
    if not (folder / "deit-tiny").is_dir():
        pytest.skip(f"no real assets at {folder}; set HF_VBP_REAL_ASSETS")
    return folder


@pytest.fixture(scope="session")
def warm_processes() -> Iterator[Any]:
    """Starts the processes of receipts from one that has imported transformers."""
    from tests.warm.receipts import WarmProcesses

    processes = WarmProcesses()
    yield processes
    processes.close()


@pytest.fixture(autouse=True)
def _warm_receipts(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.node.get_closest_marker("real_process") is not None:
        yield
        return
    processes = request.getfixturevalue("warm_processes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf_vbp.checkpoint.receipt._run", processes.run)
        yield

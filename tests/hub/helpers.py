"""Small pruned checkpoints, results files, and children that run the real client against the loopback Hub."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import make_model
from tests.loopback_hub import LoopbackHub

WIDTHS, DENSE = [5, 48, 17], [48, 48, 48]
BASE_REVISION = "0123456789abcdef0123456789abcdef01234567"
BASE_CARD = "---\nlicense: apache-2.0\ndatasets:\n- imagenet-1k\n---\n# The base model\n"
RUNNER = Path(__file__).with_name("client.py")
STATISTICS: dict[str, Any] = {
    "moments": "diagonal",
    "halves": {
        "rank_correlation": 0.9715,
        "lowest_site": "vit.layers.2.mlp",
        "lowest_site_rank_correlation": 0.9375,
        "overlaps": [
            {"ratio": 0.1, "kept": 0.99, "pruned": 0.92},
            {"ratio": 0.5, "kept": 0.943, "pruned": 0.94},
        ],
    },
}
EVALUATION: dict[str, Any] = {
    "dense": {"images": 50, "top1": 0.84, "top1_interval": [0.71, 0.93], "top5": 0.98},
    "pruned": {
        "images": 50,
        "top1": 0.74,
        "top1_interval": [0.6, 0.85],
        "top5": 0.96,
        "agreement": 0.82,
        "kl": 0.3125,
    },
    "retention": 0.881,
}


def make_results(widths: list[int] | None = None, **changes: Any) -> dict[str, Any]:
    """Return a results file for a tiny ViT: the figures are made up, their form is real."""
    widths = widths or WIDTHS
    uniform = len(set(widths)) == 1
    results: dict[str, Any] = {
        "schema_version": 1,
        "base_model": {
            "id": "alice/base-vit",
            "source": "hub",
            "revision": BASE_REVISION,
            "model_type": "vit",
            "architecture": "ViTForImageClassification",
        },
        "data": {
            "calibration": {"source": "photos", "kind": "image_folder", "split": "train", "images": 30, "tokens": 510},
            "evaluation": {"source": "photos", "kind": "image_folder", "split": "validation", "images": 50},
        },
        "plan": {
            "criterion": "variance",
            "compensation": "mean",
            "scope": "global",
            "budget": {"kind": "ratio", "asked": 0.5, "achieved": 0.5139},
            "ratio": 1 - sum(widths) / sum(DENSE),
            "minimum_width": 1,
            "round_to": 1,
            "dense_widths": DENSE,
            "widths": widths,
        },
        "statistics": copy.deepcopy(STATISTICS),
        "predicted": {"relative_output_error": 0.125, "relative_output_error_by_site": [0.5, 0.0, 0.25]},
        "observed": {"relative_output_error": 0.375, "relative_output_error_by_site": [0.5, 0.25, 0.5]},
        "cost": {
            "dense": {"parameters": 30000, "macs": 500000, "bytes": 120000},
            "pruned": {"parameters": 25000, "macs": 420000, "bytes": 100000},
        },
        "evaluation": copy.deepcopy(EVALUATION),
        "latency": [
            {"model": "dense", "device": "cpu", "dtype": "float32", "batch": 1, "median_ms": 2.5, "threads": 1},
            {"model": "pruned", "device": "cpu", "dtype": "float32", "batch": 1, "median_ms": 2.25, "threads": 1},
        ],
        "receipt": [
            {"way": way, "transformers": "5.24.0", "max_abs_difference": 0.0}
            for way in ("import", "stock" if uniform else "remote_code")
        ],
        "versions": {"python": "3.11.7", "hf_vbp": "0.1.0", "torch": "2.13.0", "transformers": "5.24.0"},
        "command": "hf-vbp prune alice/base-vit --data photos --ratio 0.5 --output pruned-vit",
    }
    return {**results, **changes}


def make_checkpoint(directory: Path, *, widths: list[int] | None = None, seed: int = 0, shards: bool = False) -> Path:
    """Save a tiny pruned ViT with processor, plan, results and manifest to ``directory``."""
    from transformers import ViTImageProcessor

    from hf_vbp.checkpoint.manifest import write_manifest
    from hf_vbp.checkpoint.transformers_patch import patched
    from hf_vbp.modeling.config_record import write_widths
    from hf_vbp.modeling.modeling_hf_vbp import resize

    widths = widths or WIDTHS
    model = make_model("vit", seed=seed)
    resize(model, widths)
    write_widths(model.config, widths, dense_widths=DENSE)
    directory.mkdir(parents=True)
    with patched():
        model.save_pretrained(directory, **({"max_shard_size": "40KB"} if shards else {}))
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(directory)
    (directory / "plan.json").write_text(json.dumps({"version": 1, "sites": []}))
    (directory / "vbp_results.json").write_text(json.dumps(make_results(widths), indent=2))
    # As save_checkpoint does; it is of the local folder, and never pushed.
    write_manifest(directory)
    return directory


class Client:
    """The real client in a separate process; it does one request per line and answers with JSON."""

    def __init__(self, hub: LoopbackHub, home: Path, token: str | None, *arguments: str, **environment: str) -> None:
        self.token = token
        paths = {"PYTHONPATH": str(Path(__file__).parents[2])}
        self.errors = home / f"stderr-{id(self)}.txt"
        home.mkdir(parents=True, exist_ok=True)
        self._stderr = self.errors.open("w")
        self.process = subprocess.Popen(
            [sys.executable, str(RUNNER), *arguments],
            env=hub.environment(home, token, **{**paths, **environment}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
        )

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.wait(timeout=30)
        self.process.stdout.close()
        self._stderr.close()
        if self.token:
            assert self.token not in self.errors.read_text()

    def send(self, do: str, **arguments: Any) -> None:
        """Ask for something, without waiting for the answer."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self.process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """Wait for an answer; ``{"died": code}`` when the process was killed."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait(timeout=30)
            assert code < 0, self.errors.read_text()
            return {"died": code}
        if self.token:
            assert self.token not in line
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Ask for something and wait for the answer."""
        self.send(do, **arguments)
        return self.receive()

    def push(self, directory: Path, repo_id: str, **options: Any) -> dict[str, Any]:
        """Push, by default without loading the checkpoint first, which takes seconds."""
        return self.ask("push", directory=str(directory), repo_id=repo_id, options={"check_load": False, **options})

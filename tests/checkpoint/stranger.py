"""Load checkpoints without hf_vbp. Run as a script, under transformers 4.57 and newer.

The argument is a JSON file: ``checkpoints`` (``folder``, ``loader``, ``dtype``, ``uniform``), each folder with a
``reference.safetensors`` (``pixel_values`` and the outputs for them), and ``output``, the folder to save them to.
"""

import copy
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file


class Block:
    """Makes ``import hf_vbp`` fail, as it does where the package is not installed."""

    def find_spec(self, name: str, *_: object) -> None:
        if name.partition(".")[0] == "hf_vbp":
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, Block())
torch.set_num_threads(1)


def check_outputs(model: Any, folder: Path) -> None:
    """Assert that the outputs are the reference's, bit for bit."""
    reference = load_file(folder / "reference.safetensors")
    with torch.no_grad():
        output = model.eval()(pixel_values=reference.pop("pixel_values"))
    assert reference
    for name, value in reference.items():
        assert torch.equal(output[name], value), (folder, name, (output[name] - value).abs().max())


def check_whole(folder: Path, widths: list[int] | None) -> None:
    """Assert that the config has the widths, and that every file that it names exists."""
    config = json.loads((folder / "config.json").read_text())
    assert config.get("vbp", {}).get("widths") == widths
    assert "allow_global_per_layer_attribute_access" not in config
    assert bool(config.get("auto_map")) is (widths is not None)
    for reference in config.get("auto_map", {}).values():
        assert (folder / (reference.split(".")[0] + ".py")).is_file(), reference


def check_round_trip(checkpoint: dict[str, Any], output: Path) -> None:
    """Load, copy, save, and load again."""
    folder = Path(checkpoint["folder"])
    loader = getattr(transformers, checkpoint["loader"])
    options = {"dtype": getattr(torch, checkpoint["dtype"]), "output_loading_info": True}
    if not checkpoint["uniform"]:
        options["trust_remote_code"] = True
    widths = json.loads((folder / "config.json").read_text()).get("vbp", {}).get("widths")
    model, info = loader.from_pretrained(folder, **options)
    assert not any(info[name] for name in ("missing_keys", "mismatched_keys", "unexpected_keys")), info
    check_outputs(model, folder)
    check_outputs(copy.deepcopy(model), folder)
    check_outputs(pickle.loads(pickle.dumps(model)), folder)
    model.save_pretrained(output / folder.name)
    check_whole(output / folder.name, widths)
    again, _ = loader.from_pretrained(output / folder.name, **options)
    check_outputs(again, folder)


def check_other_ways(folder: Path, output: Path) -> None:
    """Try the other ways of loading and saving, on a ViT classifier in fp32."""
    auto = transformers.AutoModelForImageClassification
    trusted = {"trust_remote_code": True}
    check_outputs(auto.from_pretrained(folder, device_map="auto", **trusted), folder)
    other = auto.from_pretrained(folder, num_labels=7, ignore_mismatched_sizes=True, **trusted)
    assert other.classifier.out_features == 7
    config = transformers.AutoConfig.from_pretrained(folder, **trusted)
    fresh = auto.from_config(config, **trusted)
    assert {name: tensor.shape for name, tensor in fresh.named_parameters()} == {
        name: tensor.shape for name, tensor in auto.from_pretrained(folder, **trusted).named_parameters()
    }
    assert all(torch.isfinite(tensor).all() for tensor in fresh.parameters())
    pipe = transformers.pipeline("image-classification", model=str(folder), device="cpu", **trusted)
    check_outputs(pipe.model, folder)

    backbone = transformers.AutoModel.from_pretrained(folder, **trusted)
    assert backbone.pooler.dense.weight.shape == (32, 32)
    backbone.save_pretrained(output / "backbone-of-classifier")
    widths = config.vbp["widths"]
    check_whole(output / "backbone-of-classifier", widths)

    model = auto.from_pretrained(folder, **trusted)
    arguments = transformers.TrainingArguments(output_dir=str(output / "run"), use_cpu=True, report_to="none")
    transformers.Trainer(model=model, args=arguments).save_model(str(output / "trained"))
    check_whole(output / "trained", widths)
    check_outputs(auto.from_pretrained(output / "trained", **trusted), folder)


def check_loud(folder: Path) -> None:
    """Without the package and without trust, loading must fail."""
    try:
        transformers.AutoModelForImageClassification.from_pretrained(folder)
    except (RuntimeError, ValueError):
        return
    raise AssertionError("a pruned checkpoint was loaded without hf_vbp and without trust_remote_code")


def main(job_file: str) -> None:
    """Do the job and print the version of transformers that did it."""
    job = json.loads(Path(job_file).read_text())
    output = Path(job["output"])
    for checkpoint in job["checkpoints"]:
        check_round_trip(checkpoint, output)
    first = Path(job["checkpoints"][0]["folder"])
    check_other_ways(first, output)
    check_loud(first)
    assert "hf_vbp" not in sys.modules
    print(transformers.__version__)


if __name__ == "__main__":
    main(sys.argv[1])

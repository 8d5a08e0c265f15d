"""Reads many damaged variants of one kind of input; a separate program, so that limits apply only to it.

``python -m tests.fuzz.single_changes KIND FOLDER`` prints one line for each variant that ends in anything except
success or an error of this package with a short message, and then the number of variants.
"""

import copy
import json
import math
import resource
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

SECONDS = 90
# Address space, of which torch and the libraries that it maps take several GiB before anything is read.
BYTES = 16 * 2**30
LONGEST_MESSAGE = 700
REMOVED = object()


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


WRONG = (
    REMOVED, None, True, False, "", "nan", "0123", "x" * 100_000, "\x1b[31m[/x]", -1, 0, 1, 10**5, 10**9, 10**400,
    -(10**400), 0.5, 1.7, -0.5, 1e308, math.nan, math.inf, -math.inf, [], {}, [[]], [0.5, 1.7], [False, True], [-1],
    [10**400], [None], ["a"], [10**9], {"1": 2}, {"": None}, {"x" * 100_000: 1}, nested(200), [0] * 2000,
)  # fmt: skip


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every field, and of the first three entries of every list."""
    yield path
    entries: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        entries = list(value.items())
    elif isinstance(value, list):
        entries = list(enumerate(value[:3]))
    for key, entry in entries:
        yield from paths(entry, (*path, key))


def variants(value: Any) -> Iterator[tuple[tuple[Any, ...], Any, Any]]:
    """Yield the path, the wrong value and the whole for every single change, and every field added to a mapping."""
    for path in paths(value):
        for wrong in WRONG:
            if not path:
                yield path, wrong, (None if wrong is REMOVED else wrong)
                continue
            whole = copy.deepcopy(value)
            owner = whole
            for key in path[:-1]:
                owner = owner[key]
            if wrong is REMOVED:
                del owner[path[-1]]
            else:
                owner[path[-1]] = wrong
            yield path, wrong, whole
    for added in ("unknown", "x" * 100_000):
        if isinstance(value, dict):
            yield (added,), 1, {**value, added: 1}


def count_failures(value: Any, read: Callable[[Any], object], longest: int = LONGEST_MESSAGE) -> int:
    """Read every variant, print those that end wrongly, and return how many variants there were."""
    from hf_vbp.errors import HfVbpError

    count = 0
    for path, wrong, whole in variants(value):
        count += 1
        label = f"{'.'.join(map(str, path))[:80]} = {'removed' if wrong is REMOVED else repr(wrong)[:40]}"
        try:
            read(whole)
        except HfVbpError as error:
            if len(str(error)) > longest or not str(error):
                print(f"{label}: a message of {len(str(error))} characters: {str(error)[:200]!r}")
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            print(f"{label}: {type(error).__name__} in {where.filename}:{where.lineno}: {str(error)[:100]!r}")
    return count


def config(folder: Path) -> int:
    from hf_vbp.config.vbp_config import VBPConfig

    full = VBPConfig(
        ratio=0.5,
        criterion_options={"metric": "identity", "ridge": 0.1, "token_weights": "none"},
        compensation_options={"ridge": 0.1, "regularization": "oas", "token_weights": "none"},
    )
    others = [
        {"preset": "paper", "target_macs": 0.5, "levers": ["mlp", "tokens"], "merge_tokens": 2},
        {"criterion": "random", "criterion_options": {"seed": 1}},
    ]
    # A number that Python refuses to print.
    tree = {"ratio": 10**5000, "minimum_width": 10**5000, "scope": 10**5000}
    total = sum(count_failures(start, VBPConfig.from_dict) for start in (full.to_dict(), *others))
    return total + sum(count_failures({name: value}, VBPConfig.from_dict) for name, value in tree.items())


def structure(folder: Path) -> int:
    """The config.json of a pruned checkpoint that merges tokens, from which a model without weights is built."""
    content = _checkpoint(folder)
    names = ("dtype", "image_size", "num_channels", "num_hidden_layers", "patch_size")

    def read(changed: Any) -> None:
        _inspect(folder, {**content, **changed} if isinstance(changed, dict) else changed)

    return count_failures({name: content[name] for name in names}, read)


def checkpoint(folder: Path) -> int:
    """The same, from which the model is loaded with its weights."""
    import hf_vbp

    def read(content: Any) -> None:
        (folder / "config.json").write_text(json.dumps(content))
        hf_vbp.from_pretrained(folder)

    # Errors of transformers are passed on to this length.
    return count_failures(_checkpoint(folder), read, longest=1100)


def _checkpoint(folder: Path) -> Any:
    from transformers.utils import logging

    import hf_vbp
    from tests.checkpoint.helpers import make_pruned

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    pruned = make_pruned()
    hf_vbp.merge_tokens(pruned, 2)
    pruned.save_pretrained(folder)
    content = json.loads((folder / "config.json").read_text())
    assert content["vbp"]["merged_tokens"] == [0, 2, 2]
    return content


def _inspect(folder: Path, content: Any) -> None:
    from hf_vbp.adapters.prepared import prepare_structure
    from hf_vbp.workflow.inspect import inspect_model
    from hf_vbp.workflow.loading import load_structure

    (folder / "config.json").write_text(json.dumps(content))
    inspect_model(prepare_structure(load_structure(str(folder))))


# What a plan records and nothing else contradicts: a wrong value of the right type may be read.
RECORDED = ("budget.asked", "threshold", "minimum_width", "round_to", "options.criterion", "latency")
# Records that may be missing, as in plans of the first version.
OPTIONAL = (*RECORDED, "merge_tokens", "options", "predicted", "cost")


def plan(folder: Path) -> int:
    import torch

    import hf_vbp
    from hf_vbp.adapters.prepared import prepare
    from hf_vbp.config.vbp_config import VBPConfig
    from hf_vbp.pruning.plan import PruningPlan
    from tests.conftest import make_model

    torch.set_num_threads(1)
    prepared = prepare(make_model(num_hidden_layers=2, intermediate_size=12))
    generator = torch.Generator().manual_seed(0)
    images = [{"pixel_values": torch.randn(4, 3, 32, 32, generator=generator)} for _ in range(2)]
    config = VBPConfig(target_macs=0.92, merge_tokens=2, compensation_options={"ridge": 0.1})
    statistics = hf_vbp.collect_statistics(prepared, images, config)
    made = hf_vbp.make_plan(prepared, statistics, config)
    assert made.merged_tokens == (0, 2)
    made = replace(made, latency={"batch": 1, "dense_ms": 2.0, "pruned_ms": 1.5, "speedup_interval": [1.2, 1.4]})
    path = folder / "plan.json"

    def read(content: Any) -> None:
        path.write_text(json.dumps(content))
        loaded = PruningPlan.load(path)
        # Everything that is read can be written, and has the properties that the other commands use.
        again = PruningPlan.from_dict(json.loads(loaded.to_json()))
        assert again.widths == loaded.widths
        assert 0 <= again.ratio <= 1
        hf_vbp.apply_plan(prepared, loaded, statistics)
        changed = {path for path in leaves(made.to_dict(), loaded.to_dict()) if path.partition(".")[0] != "version"}
        wrong = [path for path in changed if not path.startswith(OPTIONAL if _is_less(path, loaded) else RECORDED)]
        assert not wrong, f"another {wrong[0]} is applied"

    for text in ("1" * 5000, "[" * 100_000, '{"version": NaN}', "", "\x00"):
        count_failures({}, lambda _, text=text: (path.write_text(text), PruningPlan.load(path)))
    return count_failures(made.to_dict(), read)


def leaves(before: Any, after: Any, where: str = "") -> Iterator[str]:
    """Yield the dotted names of the fields that differ; a field that is missing in one of them differs."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in {**before, **after}:
            yield from leaves(before.get(name), after.get(name), f"{where}.{name}" if where else name)
    elif before != after or type(before) is not type(after):
        yield where


def _is_less(path: str, loaded: Any) -> bool:
    return not loaded.to_dict().get(path.partition(".")[0])


def statistics(folder: Path) -> int:
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    from hf_vbp.config.vbp_config import VBPConfig
    from hf_vbp.statistics.activation_statistics import ActivationStatistics, describe_model

    good = Path(__file__).parents[1] / "statistics" / "first_version" / "statistics-with-curves.safetensors"
    path = folder / "statistics.safetensors"
    with safe_open(good, framework="pt") as file:
        metadata = file.metadata()
        tensors: dict[str, torch.Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def read(header: Any) -> None:
        texts = {name: text if isinstance(text, str) else json.dumps(text) for name, text in header.items()}
        save_file(tensors, path, metadata=texts)
        loaded = ActivationStatistics.load(path)
        assert loaded.images > 0
        assert loaded.tokens > 0
        describe_model(loaded.fingerprints)
        loaded.merge(loaded, allow_overlap=True)

    description = json.loads(metadata["description"])
    total = count_failures(description, lambda changed: read({**metadata, "description": changed}))
    for text in ("1" * 5000, "[" * 100_000, "NaN", "", "{"):
        total += count_failures({}, lambda _, text=text: read({**metadata, "description": text}))

    def measured(changed: Any) -> None:
        fingerprints = {**description["fingerprints"], "lever_measurements": changed}
        read({**metadata, "description": {**description, "fingerprints": fingerprints}})
        found = ActivationStatistics.load(path).measurements_of(VBPConfig().method)
        assert found is None or found.distance([0, 4, 4], [20, 20]) is None or found.images > 0

    total += count_failures([_measured()], measured)
    return total + count_failures(metadata, lambda changed: read(changed if isinstance(changed, dict) else {}))


def _measured() -> dict[str, Any]:
    from hf_vbp.config.vbp_config import VBPConfig
    from hf_vbp.statistics.lever_measurements import LeverMeasurement, LeverMeasurements

    points = (LeverMeasurement((0, 4, 4), (20, 20), 0.1, {"speedup": 1.5}), LeverMeasurement((), (20, 20), 0.0))
    return LeverMeasurements(VBPConfig().method, 64, points).to_dict()


def recipe(folder: Path) -> int:
    from hf_vbp.workflow.finetune.recipe import load_recipe, make_recipe
    from hf_vbp.workflow.finetune.yaml_text import parse_yaml

    tree = {
        "prune": {
            "model": "model", "revision": "main", "ratio": 0.5, "criterion": "obs", "compensation": "linear",
            "scope": "layer", "minimum_width": 1, "round_to": 8, "criterion_options": {"ridge": 0.1},
            "data": {"source": "images", "split": "train", "batch_size": 8, "limit": 64, "seed": 0},
        },
        "teacher": "teacher",
        "teacher_revision": "main",
        "data": {
            "train": {"source": "images", "streaming": False, "on_bad_image": "skip"},
            "evaluation": {"source": "images", "image_column": "image", "label_column": "label"},
            "augmentation": "plain",
            "keep_images": False,
        },
        "training": {
            "learning_rate": 1e-4, "num_train_epochs": 2, "seed": 1, "hard_label_weight": 0.5, "temperature": 2.0,
            "per_device_train_batch_size": 8, "warmup_steps": 10, "max_steps": -1, "lr_scheduler_type": "cosine",
        },
        "output": "recovered",
    }  # fmt: skip
    path = folder / "recipe.yaml"
    total = count_failures(tree, make_recipe)
    for text in ("1" * 5000, "[" * 1000, "a: &a [x]\nb: *a", "", "\x00", "!!python/object:x {}"):
        total += count_failures({}, lambda _, text=text: (path.write_text(text), load_recipe([path])))
    # Accepted input is read again from its own text.
    assert parse_yaml(make_recipe(tree).to_yaml(), "recipe")["output"] == "recovered"
    return total


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    KINDS = {
        "config": config,
        "structure": structure,
        "checkpoint": checkpoint,
        "plan": plan,
        "statistics": statistics,
        "recipe": recipe,
    }
    print(KINDS[sys.argv[1]](Path(sys.argv[2])))

"""The figures of an evaluation for every class: dense against changed, each computed once more in float64 by numpy."""

import copy
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch

import hf_vbp
from hf_vbp.evaluation.models import evaluate_models
from hf_vbp.evaluation.task import example_task
from hf_vbp.inputs.batch import model_inputs
from hf_vbp.results.record import schema

from .contract import PRUNED, WHOLE, simple_of, work_of
from .family import Family
from .running import BY_NAME, model_of

FAMILIES = [*PRUNED, *WHOLE]
SHARES = {"agreement", "neighbor_agreement"}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_output_is_compared_by_its_kind(family: Family) -> None:
    dense, changed = model_of(family.name), changed_copy(family)
    batches = [family.batch(3), family.batch(2, 0, 3)]
    found = evaluate_models({"dense": dense, "changed": changed}, batches)
    figures = found["changed"].to_dict()
    assert found["dense"].to_dict() == {"images": 5}
    outputs = [[run(model, batch) for batch in batches] for model in (dense, changed)]
    if "outputs" not in figures:
        p, q = (np.concatenate([output["logits"] for output in each]) for each in outputs)
        assert figures["kl"] == pytest.approx(kl(p, q, -1).mean(), rel=1e-5, abs=1e-9)
        assert figures["agreement"] == pytest.approx((p.argmax(-1) == q.argmax(-1)).mean())
        return
    check_total(figures)
    for name, part in figures["outputs"].items():
        check_ranges(part)
        expected = by_numpy(part["kind"], [[tensor(output, name) for output in each] for each in outputs])
        for figure, values in expected.items():
            assert part[figure]["mean"] == pytest.approx(values.mean(), rel=1e-5, abs=1e-9), (name, figure)
            error = values.std(ddof=1) / len(values) ** 0.5
            assert part[figure]["standard_error"] == pytest.approx(error, rel=1e-5, abs=1e-9), (name, figure)


@pytest.mark.parametrize("family", PRUNED, ids=lambda family: family.name)
def test_the_kind_is_known_before_any_batch(family: Family) -> None:
    task = example_task(model_of(family.name))
    assert task is not None
    assert task.distance is not None


@pytest.mark.parametrize("family", PRUNED, ids=lambda family: family.name)
def test_a_pruned_model_is_evaluated_against_its_dense_one(family: Family) -> None:
    work, (plan, pruned) = work_of(family.name), simple_of(family.name)
    result = hf_vbp.PruningResult.from_parts(work.prepared, pruned, plan, work.statistics)
    result = hf_vbp.evaluate(result, work.batches)
    jsonschema.validate(result.results, schema())
    assert result.results["evaluation"]["pruned"]["images"] == 4
    observed = result.results["observed"]["relative_output_error_by_site"]
    assert len(observed) == len(work.sites)
    assert all(math.isfinite(error) and error >= 0 for error in observed)
    # A site that is not used has no output to be wrong; the others lost some of their neurons.
    assert any(error > 0 for error in observed)


def changed_copy(family: Family) -> Any:
    changed = copy.deepcopy(model_of(family.name))
    with torch.no_grad():
        for site in family.sites:
            changed.get_submodule(site.down).weight.mul_(1.1)
    return changed


def test_padded_patches_do_not_count() -> None:
    family = BY_NAME["Idefics3VisionTransformer"]
    models = {"dense": model_of(family.name), "changed": changed_copy(family)}
    batches = [family.batch(2), family.batch(1, 0, 2)]
    found = evaluate_models(models, batches)["changed"].outputs["last_hidden_state"]["cosine_distance"]
    expected = []
    for batch in batches:
        p, q = (run(model, batch)["last_hidden_state"].astype(np.float64) for model in models.values())
        counted = batch["patch_attention_mask"].flatten(1).numpy()
        assert not counted.all()
        for image, mask in enumerate(counted):
            a, b = p[image][mask].mean(0), q[image][mask].mean(0)
            expected.append(1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert found.mean == pytest.approx(np.mean(expected), rel=1e-4)


def test_packed_patches_are_counted_by_image() -> None:
    family = BY_NAME["Qwen2VisionTransformerPretrainedModel"]
    models = {"dense": model_of(family.name), "changed": changed_copy(family)}
    batches = [family.batch(2), family.batch(1, 0, 2)]
    figures = evaluate_models(models, batches)["changed"]
    assert figures.images == 3
    expected = []
    for batch in batches:
        p, q = (run(model, batch)["pooler_output"].astype(np.float64) for model in models.values())
        cuts = np.cumsum(family.lengths(batch) if family.lengths else [])[:-1]
        for a, b in zip(np.split(p, cuts), np.split(q, cuts), strict=True):
            expected.append(np.square(a - b).mean() / a.var())
    share = figures.outputs["pooler_output"]["variance_share"]
    assert share.mean == pytest.approx(np.mean(expected), rel=1e-5)
    assert share.standard_error == pytest.approx(np.std(expected, ddof=1) / 3**0.5, rel=1e-5)


def run(model: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    with torch.no_grad():
        # Models with random masking get the noise of the library.
        output = model(**model_inputs(model, batch))
    return {
        name: value.numpy() if isinstance(value, torch.Tensor) else value
        for name, value in output.items()
        if value is not None
    }


def tensor(output: Mapping[str, Any], name: str) -> Any:
    key, _, index = name.partition(".")
    return np.asarray(output[key][int(index)] if index else output[key], dtype=np.float64)


def check_ranges(part: Mapping[str, Any]) -> None:
    for name, figure in part.items():
        if name != "kind":
            low, high = figure["interval"]
            assert 0 <= low <= figure["mean"] <= high
            assert name not in SHARES or high <= 1


# The figure of each kind that is its distance, and what it is multiplied by, from docs/output_distance.md.
IN_NATS = {
    "kl": 1.0, "binary_kl": 1.0, "squared_error": 0.5, "variance_share": 0.5, "neighbor_kl": 1.0,
    "cosine_distance": 1.0,
}  # fmt: skip


def check_total(figures: dict[str, Any]) -> None:
    total = 0.0
    for part in figures["outputs"].values():
        name = next(name for name in IN_NATS if name in part)
        total += IN_NATS[name] * part[name]["mean"]
    assert total > 0
    assert figures["output_distance"]["mean"] == pytest.approx(total)
    low, high = figures["output_distance"]["interval"]
    assert low <= total <= high


def by_numpy(kind: str, outputs: list[list[Any]]) -> dict[str, Any]:
    """Values of each image; nothing for outputs whose positions are padded, which other tests cover."""
    per_image = {
        "logits": partial(categories, axis=-1),
        "pixel_classes": partial(categories, axis=1),
        "multi_label": partial(labels, add=True),
        "masks": partial(labels, add=False),
        "regression": partial(squares, add=True),
        "boxes": partial(squares, add=True),
        "heat_maps": partial(squares, add=False),
        "depth": variances,
        "feature_maps": variances,
        "embeddings": cosines,
    }.get(kind)
    if per_image is None:
        return {}
    pieces = [per_image(p, q) for p, q in zip(*outputs, strict=True)]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def by_image(values: Any) -> Any:
    return values.reshape(len(values), -1).mean(1)


def log_softmax(x: Any, axis: int) -> Any:
    x = x - x.max(axis, keepdims=True)
    return x - np.log(np.exp(x).sum(axis, keepdims=True))


def kl(p: Any, q: Any, axis: int) -> Any:
    a, b = (log_softmax(np.asarray(x, dtype=np.float64), axis) for x in (p, q))
    with np.errstate(invalid="ignore"):
        return np.where(np.exp(a) > 0, np.exp(a) * (a - b), 0.0).sum(axis)


def categories(p: Any, q: Any, axis: int) -> dict[str, Any]:
    return {"kl": by_image(kl(p, q, axis)), "agreement": by_image(p.argmax(axis) == q.argmax(axis))}


def labels(p: Any, q: Any, add: bool) -> dict[str, Any]:
    a, b = 1 / (1 + np.exp(-p)), 1 / (1 + np.exp(-q))
    with np.errstate(divide="ignore", invalid="ignore"):
        each = np.where(a > 0, a * np.log(a / b), 0.0) + np.where(a < 1, (1 - a) * np.log((1 - a) / (1 - b)), 0.0)
    return {"binary_kl": by_image(each.sum(-1) if add else each), "agreement": by_image((p > 0) == (q > 0))}


def squares(p: Any, q: Any, add: bool) -> dict[str, Any]:
    each = np.square(p - q)
    return {"squared_error": by_image(each.sum(-1) if add else each)}


def variances(p: Any, q: Any) -> dict[str, Any]:
    return {"variance_share": by_image(np.square(p - q)) / p.reshape(len(p), -1).var(1)}


def cosines(p: Any, q: Any) -> dict[str, Any]:
    lengths = np.linalg.norm(p, axis=-1) * np.linalg.norm(q, axis=-1)
    return {"cosine_distance": 1 - (p * q).sum(-1) / lengths}

"""Output metrics of a classifier: the cotangents whose gradients give ``G`` and the token weights.

    python -m benchmarks.metrics MODEL CALIBRATION EVALUATION --output DIR [--seeds 0 1 2] [--draws 1 3]

Compares ``labels`` (the gradient of the log-likelihood of a label drawn from the prediction), ``logits`` (Gaussian
noise with the covariance ``diag(p) - p p^T``), ``neighbors`` (the distance of features, at the input of the last
linear layer, to those of calibration images) and the sum ``labels+neighbors`` (of independent cotangents, so twice
the backward passes), each with one cotangent per image and with the mean over several: one forward, several
backward passes. ``G`` is the mean of the outer products; the norm of a token's gradient is the root of the mean
square. Everything else is the default method.

Measures top-1 and the KL divergence from the dense model on the same evaluation images. The first variant is the
reference: differences are paired by image and seed, with 95 % intervals of both (the squared standard errors over
images and over seeds are added). Results are kept in DIR, so that an interrupted run continues. Writes ``metrics.csv``
and prints a Markdown table.
"""

import argparse
import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageClassification

from benchmarks.few_images import Judge
from hf_vbp.adapters.prepared import PreparedModel, prepare
from hf_vbp.calibration.batch_moments import MAX_ROWS, Workspace, weighted_moments
from hf_vbp.calibration.collect import collect_statistics
from hf_vbp.calibration.hooked_model import draw_labels
from hf_vbp.calibration.running_moments import RunningMoments
from hf_vbp.config.requirements import Requirements
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.data.loading import load_images
from hf_vbp.output_distance import ImageNoise, OutputKind
from hf_vbp.output_distance.cosines import BANK_SIZE, NeighborBank, Neighbors
from hf_vbp.pruning.apply_plan import apply_fitted
from hf_vbp.pruning.make_plan import fit_plan, precompute_scores, rank_sites
from hf_vbp.statistics.activation_statistics import ActivationStatistics
from hf_vbp.statistics.moments import Moments

KINDS = ("labels", "logits", "neighbors", "labels+neighbors")
METHOD = VBPConfig(criterion_options={"metric": "gradient", "token_weights": "gradient"})
Batches = Sequence[Mapping[str, Tensor]]


@dataclass(frozen=True)
class Variant:
    """A kind of cotangent, and the number of them for each image."""

    kind: str
    draws: int

    def __str__(self) -> str:
        return f"{self.kind} x {self.draws}"


@dataclass(frozen=True, eq=False)
class Gradients:
    """The gradients of one cotangent per image at the outputs of all sites.

    Attributes:
        metrics: ``(out, out)`` float64 for each site, the mean of ``g g^T`` over the tokens.
        squared_norms: ``(images, tokens)`` float32 for each site.
    """

    metrics: list[Tensor]
    squared_norms: list[Tensor]

    @classmethod
    def mean(cls, several: Sequence["Gradients"]) -> "Gradients":
        """Return the mean of the second moments of independent cotangents."""
        metrics, norms = (
            [list(of) for of in zip(*each, strict=True)] for each in zip(*map(_parts, several), strict=True)
        )
        return cls([sum(of) / len(of) for of in metrics], [sum(of) / len(of) for of in norms])

    def token_weights(self) -> list[Tensor]:
        """Return the weights of the default method, ``(images, tokens)`` for each site."""
        return [0.5 + 0.5 * norms / norms.mean(1, keepdim=True) for norms in map(torch.sqrt, self.squared_norms)]


def _parts(gradients: Gradients) -> tuple[list[Tensor], list[Tensor]]:
    return gradients.metrics, gradients.squared_norms


def on(device: str, batches: Batches) -> Batches:
    """Return the batches with their tensors on a device."""
    return [{name: value.to(device) for name, value in batch.items()} for batch in batches]


class Recorder:
    """A model that keeps the features, and the inputs and outputs of ``down`` of every site, of its last batch."""

    def __init__(self, prepared: PreparedModel) -> None:
        self.model, self.sites = prepared.model, prepared.sites
        self.hidden: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.features = torch.empty(0)
        self._restore = ExitStack()

    def __enter__(self) -> "Recorder":
        self.model.requires_grad_(False)
        for site in self.sites:
            self._restore.callback(site.fc2.register_forward_hook(self._record).remove)
        last = [module for module in self.model.modules() if isinstance(module, torch.nn.Linear)][-1]
        self._restore.callback(last.register_forward_pre_hook(self._record_features).remove)
        return self

    def __exit__(self, *error: Any) -> None:
        self._restore.close()

    def run(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the logits."""
        self.hidden, self.outputs = [], []
        logits: Tensor = self.model(pixel_values=batch["pixel_values"]).logits
        return logits

    def _record(self, module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if torch.is_grad_enabled() and not output.requires_grad:
            output.requires_grad_()
        self.hidden.append(inputs[0].detach())
        self.outputs.append(output)
        return output

    def _record_features(self, module: Any, inputs: tuple[Tensor, ...]) -> None:
        self.features = inputs[0]


def base_kinds(kind: str) -> list[str]:
    """Return the kinds that a sum consists of."""
    return kind.split("+")


def cotangent(kind: str, logits: Tensor, features: Tensor, bank: Neighbors, indices: range, number: int) -> Tensor:
    """Return the scalar whose gradient is that of one cotangent per image.

    Args:
        kind: One of ``labels``, ``logits`` and ``neighbors``.
        logits: ``(images, classes)`` with their graph.
        features: ``(images, dim)`` with their graph.
        bank: The distance of features.
        indices: Number of each image in the whole set.
        number: Number of the draw; every number gives independent cotangents.
    """
    if kind == "labels":
        drawn = draw_labels(logits, indices, number).to(logits.device)
        return logits.log_softmax(-1).gather(1, drawn[:, None]).sum()
    noise = ImageNoise(number, list(indices), stream=KINDS.index(kind))
    values, formula = (logits, OutputKind.LOGITS.formula) if kind == "logits" else (features, bank)
    return (values * formula.cotangent(values.detach(), noise)).sum()


def gradients_of(recorder: Recorder, batches: Batches, draws: Sequence[tuple[str, int]]) -> dict[Any, Gradients]:
    """Return the gradients of each kind and number of a draw: one forward pass, one backward pass for each."""
    with torch.no_grad():
        features = torch.cat([(recorder.run(batch), recorder.features)[1] for batch in batches])[:BANK_SIZE]
    bank = Neighbors(NeighborBank(features, tuple(range(len(features)))))
    sums: dict[Any, list[Tensor]] = {}
    norms: dict[Any, list[list[Tensor]]] = {draw: [[] for _ in recorder.sites] for draw in draws}
    start, tokens = 0, 0
    for batch in batches:
        indices = range(start, start + len(batch["pixel_values"]))
        with torch.enable_grad():
            logits = recorder.run(batch)
        tokens += recorder.outputs[0].shape[:-1].numel()
        for kind, number in draws:
            scalar = cotangent(kind, logits, recorder.features, bank, indices, number)
            gradients = torch.autograd.grad(scalar, recorder.outputs, retain_graph=True)
            products = [(g.flatten(0, -2).T @ g.flatten(0, -2)).double() for g in gradients]
            before = sums.get((kind, number))
            sums[kind, number] = products if before is None else [a + b for a, b in zip(before, products, strict=True)]
            for found, gradient in zip(norms[kind, number], gradients, strict=True):
                found.append(gradient.square().sum(-1))
        start = indices.stop
        print(f"gradients of {start} images", file=sys.stderr, flush=True)
    return {
        draw: Gradients([product.cpu() / tokens for product in sums[draw]], [torch.cat(of) for of in norms[draw]])
        for draw in draws
    }


def weighted(recorder: Recorder, batches: Batches, weights: Sequence[Sequence[Tensor]]) -> list[list[Moments]]:
    """Return the weighted moments of all sites for several sets of token weights, from one forward pass."""
    workspace = Workspace()
    running = [
        [RunningMoments(s.intermediate_size, workspace, s.fc2.weight.device, full=True) for s in recorder.sites]
        for _ in weights
    ]
    start = 0
    for batch in batches:
        with torch.no_grad():
            recorder.run(batch)
        stop = start + len(batch["pixel_values"])
        for moments, of_sites in zip(running, weights, strict=True):
            for one, hidden, of_tokens in zip(moments, recorder.hidden, of_sites, strict=True):
                rows, of_rows = hidden.flatten(0, -2), of_tokens[start:stop].flatten()
                for part, of_part in zip(rows.split(MAX_ROWS), of_rows.split(MAX_ROWS), strict=True):
                    one.add(weighted_moments(part, of_part, workspace, one.add_products))
        start = stop
        print(f"moments of {start} images", file=sys.stderr, flush=True)
    return [[one.finish() for one in moments] for moments in running]


def run(options: argparse.Namespace) -> dict[Any, tuple[Tensor, Tensor]]:
    """Return, for each ratio, variant and seed, whether each image is correct and its divergence."""
    model = AutoModelForImageClassification.from_pretrained(options.model).eval().to(options.device)
    prepared = prepare(model)
    images = load_images(options.calibration, model=model, limit=options.limit, seed=0)
    batches = on(options.device, list(images.loader))
    variants = [Variant(kind, draws) for kind in options.kinds for draws in options.draws]
    judge = Judge.of(model, options.evaluation, options.evaluation_limit, options.device)
    statistics = cached(options.output / "statistics.pt", lambda: gathered(prepared, batches, variants, options.seeds))
    results: dict[Any, tuple[Tensor, Tensor]] = cached(options.output / "results.pt", dict)
    rankings: dict[Any, Any] = {}
    for ratio in options.ratios:
        for seed in options.seeds:
            for variant in variants:
                key = ratio, str(variant), seed
                if key in results:
                    continue
                found = statistics[str(variant), seed]
                if key[1:] not in rankings:
                    found = precompute_scores(prepared, found, METHOD, device=options.device)
                    rankings[key[1:]] = rank_sites(prepared, found, METHOD)
                fitted = fit_plan(prepared, found, METHOD.with_budget(ratio=ratio), rankings=rankings[key[1:]])
                results[key] = judge(apply_fitted(prepared, fitted))
                torch.save(results, options.output / "results.pt")
                print(*key, *(round(float(each.mean()), 4) for each in results[key]), file=sys.stderr, flush=True)
    return results


def gathered(
    prepared: PreparedModel, batches: Batches, variants: Sequence[Variant], seeds: Sequence[int]
) -> dict[Any, ActivationStatistics]:
    """Return the statistics of every variant and seed; they differ in ``G`` and the weighted moments."""
    plain = collect_statistics(prepared, batches, Requirements(covariances=True))
    most = max(variant.draws for variant in variants)
    kinds = list(dict.fromkeys(kind for variant in variants for kind in base_kinds(variant.kind)))
    numbers = {seed: range(most * seed, most * (seed + 1)) for seed in seeds}
    with Recorder(prepared) as recorder:
        draws = [(kind, number) for kind in kinds for seed in seeds for number in numbers[seed]]
        single = gradients_of(recorder, batches, draws)
        found = {}
        for variant in variants:
            for seed in seeds:
                of = [
                    Gradients.mean([single[k, n] for n in numbers[seed][: variant.draws]])
                    for k in base_kinds(variant.kind)
                ]
                found[str(variant), seed] = Gradients.mean(of)
        moments = weighted(recorder, batches, [gradients.token_weights() for gradients in found.values()])
    return {
        key: replace(
            plain,
            sites=tuple(
                replace(site, metric=metric, weighted=of_site)
                for site, metric, of_site in zip(plain.sites, gradients.metrics, of_sites, strict=True)
            ),
        )
        for (key, gradients), of_sites in zip(found.items(), moments, strict=True)
    }


def cached(path: Path, make: Any) -> Any:
    """Return what is stored in a file, or make and store it."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(make(), path)
    return torch.load(path, weights_only=False)


def compared(mine: Sequence[Tensor], reference: Sequence[Tensor]) -> tuple[float, float]:
    """Return the mean difference over images and seeds, and half of its 95 % interval.

    Args:
        mine: ``(images,)`` for each seed.
        reference: The same of the reference.
    """
    difference = torch.stack(list(mine)) - torch.stack(list(reference))
    over_images = difference.mean(0).var() / difference.shape[1]
    over_seeds = difference.mean(1).var() / len(difference) if len(difference) > 1 else torch.tensor(0.0)
    return float(difference.mean()), float(1.96 * (over_images + over_seeds).sqrt())


def rows_of(results: Mapping[Any, tuple[Tensor, Tensor]], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield one row of figures for each ratio and variant."""
    variants = [str(Variant(kind, draws)) for kind in options.kinds for draws in options.draws]
    for ratio in sorted(options.ratios):
        reference = [results[ratio, variants[0], seed] for seed in options.seeds]
        for variant in variants:
            mine = [results[ratio, variant, seed] for seed in options.seeds]
            row: dict[str, Any] = {"ratio": ratio, "variant": variant, "seeds": len(options.seeds)}
            for place, name in enumerate(("top1", "kl")):
                figures, theirs = ([of_seed[place] for of_seed in each] for each in (mine, reference))
                means = [float(figure.mean()) for figure in figures]
                row[name] = sum(means) / len(means)
                row[f"{name}_lowest"], row[f"{name}_highest"] = min(means), max(means)
                row[f"{name}_difference"], row[f"{name}_interval"] = compared(figures, theirs)
            yield row


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table; the first variant is the reference of each difference."""
    lines = [
        "| ratio | cotangents | top-1 | difference | KL | of the seeds | difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        shown = dict.fromkeys(("top1", "kl"), "")
        if row["variant"] != rows[0]["variant"]:
            shown["top1"] = f"{row['top1_difference']:+.3f} ± {row['top1_interval']:.3f}"
            shown["kl"] = f"{row['kl_difference']:+.4f} ± {row['kl_interval']:.4f}"
        lines.append(
            f"| {row['ratio']:g} | {row['variant']} | {row['top1']:.3f} | {shown['top1']} | {row['kl']:.4f} | "
            f"{row['kl_lowest']:.4f} to {row['kl_highest']:.4f} | {shown['kl']} |"
        )
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("calibration")
    parser.add_argument("evaluation")
    parser.add_argument("--output", type=Path, required=True, help="folder; what it holds is not computed again")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--draws", nargs="+", type=int, default=[1, 3], help="cotangents for each image")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--ratios", nargs="+", type=float, default=[0.3, 0.5, 0.6, 0.7], help="in this order")
    parser.add_argument("--limit", type=int, help="calibration images, by default all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--evaluation-limit", type=int, help="evaluation images, by default all")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, write the CSV and print the table."""
    options = parse(arguments)
    rows = list(rows_of(run(options), options))
    with (options.output / "metrics.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    print(table(rows))


if __name__ == "__main__":
    main()

"""The facts of a card as a typed object, made from the results file alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hf_vbp.card import text
from hf_vbp.card.base_card import BaseCard
from hf_vbp.card.cells import STATES, accuracy_without_head, conditions, scalars, speedup
from hf_vbp.card.export_facts import comparison
from hf_vbp.card.model_task import ModelTask
from hf_vbp.card.tables import METRICS, Table, cell, details, figure, label, levers_table
from hf_vbp.card.text import Markdown
from hf_vbp.results.export_table import export_cells
from hf_vbp.results.lost_classes import lost_classes
from hf_vbp.results.named_figures import figure_rows

Results = Mapping[str, Any]


@dataclass(frozen=True)
class CardFacts:
    """Everything that a card shows.

    The template escapes every value that is not :class:`~hf_vbp.card.text.Markdown`.

    Attributes:
        name: Name of the model, for the heading and the ``model-index``.
        repo_id: Its repository on the Hub; None while that is not known.
        base_id: Hub id of the base model; None when it was loaded from a folder.
        base_name: Name of the base model in a sentence.
        base_revision: Commit of the base model.
        base: The facts from the card of the base model; None when it could not be read.
        results: The results file that all figures come from.
        has_processor: Whether the checkpoint has an image processor.
        exports: The rows of the exported files in the repository.
        remarks: Notes on the values left out of the card, with the reason.
        task: How the model is loaded, and its task on the Hub.
    """

    name: str
    repo_id: str | None
    base_id: str | None
    base_name: str | None
    base_revision: str | None
    base: BaseCard | None
    results: Results
    has_processor: bool = True
    exports: tuple[Results, ...] = ()
    remarks: tuple[str, ...] = field(default=())
    task: ModelTask = field(kw_only=True)

    @property
    def plan(self) -> Mapping[str, Any]:
        """The ``plan`` part of the results."""
        plan: Mapping[str, Any] = self.results["plan"]
        return plan

    @property
    def final_state(self) -> str | None:
        """The state that the weights are in: ``finetuned`` or ``pruned``; None when it was not evaluated."""
        states = self.results.get("evaluation", {})
        finetuned = "finetuned" in states or "finetuning" in self.results
        state = "finetuned" if finetuned else "pruned"
        return state if state in states else None

    @property
    def is_finetuned(self) -> bool:
        """Whether the weights were trained after pruning."""
        return "finetuning" in self.results or "finetuned" in self.results.get("evaluation", {})

    @property
    def is_uniform(self) -> bool:
        """Whether all sites have one width, which stock transformers loads."""
        return len(set(self.plan["widths"])) == 1

    @property
    def merging(self) -> str | None:
        """The numbers of tokens that are merged before the blocks; None where none are."""
        counts = self.results.get("merged_tokens")
        return ", ".join(map(str, counts)) if counts else None

    @property
    def ways(self) -> frozenset[str]:
        """The ways of loading that were tried and compared."""
        return frozenset(row["way"] for row in self.results.get("receipt", []))

    @property
    def auto_class(self) -> str:
        """The transformers class that a reader loads it with."""
        return self.task.auto_class

    @property
    def loader_module(self) -> Markdown:
        """The module of that class, for a code block."""
        return Markdown(self.task.module)

    @property
    def is_classifier(self) -> bool:
        """Whether the model gives logits over classes."""
        return self.auto_class == "AutoModelForImageClassification"

    @property
    def address(self) -> Markdown:
        """The argument of ``from_pretrained``."""
        return Markdown(self.repo_id or "path/to/this/folder")

    @property
    def repository(self) -> Markdown | None:
        """The repository, for a code span."""
        return Markdown(self.repo_id) if self.repo_id else None

    @property
    def base_link(self) -> Markdown | None:
        """The base model as a link to its page; None when it was loaded from a folder."""
        return Markdown(f"[{self.base_id}](https://huggingface.co/{self.base_id})") if self.base_id else None

    @property
    def base_commit(self) -> Markdown | None:
        """Commit of the base model, for a code span."""
        return text.code_span(self.base_revision) if self.base_revision else None

    @property
    def removes_neurons(self) -> bool:
        """Whether neurons were removed; a model may only merge tokens."""
        return list(self.plan["widths"]) != list(self.plan["dense_widths"])

    @property
    def removed_share(self) -> str:
        """The share of removed hidden neurons, in percent."""
        dense, kept = sum(self.plan["dense_widths"]), sum(self.plan["widths"])
        return text.percent(1 - kept / dense)

    @property
    def headline(self) -> str:
        """One sentence with the main figures, if they were measured."""
        cost = self.results["cost"]
        saved = [
            f"{text.percent(1 - cost['pruned'][key] / cost['dense'][key])} fewer {name}"
            for key, name in (("parameters", "parameters"), ("macs", "MACs"))
            if cost["dense"][key] and (cost["pruned"][key] != cost["dense"][key] or self.removes_neurons)
        ]
        owner, dense = ("Its vision tower", "that of the dense model") if "part" in cost else ("It", "the dense model")
        sentence = f"{owner} has {' and '.join(saved)} than {dense}" if saved else "Its cost was not measured"
        evaluation, state = self.results.get("evaluation", {}), self.final_state
        if state and "top1" in evaluation.get("dense", {}) and "top1" in evaluation[state]:
            before, after = (text.percent(evaluation[key]["top1"]) for key in ("dense", state))
            sentence += f"; top-1 {before} before, {after} {STATES[state]}"
            sentence += f", on {text.count(evaluation[state]['images'])} images"
        elif state:
            sentence += accuracy_without_head(evaluation, state)
        return sentence + "."

    @property
    def chart(self) -> Markdown:
        """The width of every layer, drawn as text."""
        return Markdown(text.bar_chart(self.plan["dense_widths"], self.plan["widths"]))

    @property
    def widths_table(self) -> Table:
        """The width of every layer, in figures."""
        pairs = zip(self.plan["dense_widths"], self.plan["widths"], strict=True)
        rows = [
            (str(index), text.count(dense), text.count(kept), text.percent(1 - kept / dense) if dense else "-")
            for index, (dense, kept) in enumerate(pairs)
        ]
        header: tuple[str, ...] = ("MLP", "dense", "kept", "removed")
        predicted = "predicted output error" + (" before fine-tuning" if self.is_finetuned else "")
        errors = self.results.get("predicted", {}).get("relative_output_error_by_site", [])
        if len(errors) == len(rows):
            header += (predicted,)
            return Table(header, tuple((*row, text.percent(error)) for row, error in zip(rows, errors, strict=True)))
        return Table(header, tuple(rows))

    @property
    def accuracy_table(self) -> Table | None:
        """Accuracy before, after pruning, after fine-tuning; a column only where something was measured."""
        evaluation = {state: row for state, row in self.results.get("evaluation", {}).items() if state in STATES}
        columns = [key for key in ("top1", "top5", *METRICS) if any(key in row for row in evaluation.values())]
        if not columns:
            return None
        names = {"top1": "top-1 (95 % interval)", "top5": "top-5", **METRICS}
        rows = []
        for state, stage in STATES.items():
            if state in evaluation:
                row = evaluation[state]
                cells = [self._accuracy_cell(row, key) for key in columns]
                rows.append((stage, text.count(row["images"]), *cells))
        return Table(("", "images", *(names[key] for key in columns)), tuple(rows))

    @property
    def lost_classes_table(self) -> Table | None:
        """The classes that lose most top-1 by the pruning, of those with at least ten images."""
        evaluation = self.results.get("evaluation", {})
        state = self.final_state
        lost = lost_classes(evaluation.get("dense", {}), evaluation[state]) if state else []
        rows = [(name, text.count(images), text.percent(a), text.percent(b)) for name, images, a, b in lost]
        return Table(("class", "images", "top-1 before", "now"), tuple(rows)) if rows else None

    @property
    def figures_table(self) -> Table | None:
        """Every other figure of the evaluation, which depend on the kind of output, with their intervals."""
        evaluation = self.results.get("evaluation", {})
        states = [state for state in STATES if state in evaluation]
        rows = figure_rows(evaluation, states)
        return Table(("", *(STATES[state] for state in states)), tuple(rows)) if rows else None

    @staticmethod
    def _accuracy_cell(row: Mapping[str, Any], key: str) -> str:
        if key not in row:
            return ""
        interval = row.get(f"{key}_interval")
        if key != "kl":
            return text.with_interval(row[key], interval)
        low_to_high = "" if interval is None else f" ({' to '.join(map(text.number, interval))})"
        return text.number(row[key]) + low_to_high

    @property
    def cost_table(self) -> Table:
        """Parameters, MACs and size, dense against pruned."""
        dense, pruned = self.results["cost"]["dense"], self.results["cost"]["pruned"]
        names = {"parameters": "parameters", "macs": f"MACs of one {self.task.sample}", "bytes": "weights"}
        rows = []
        for key, name in names.items():
            unit = "B" if key == "bytes" else ""
            cells = (text.quantity(value[key], unit) for value in (dense, pruned))
            rows.append((name, *cells, text.change(dense[key], pruned[key])))
        first = "of the vision tower" if "part" in self.results["cost"] else ""
        return Table((first, "dense", "pruned", "change"), tuple(rows))

    @property
    def latency_table(self) -> Table | None:
        """Measured latency and speed-up; narrow enough for a page, all other figures are in the results file."""
        rows: Sequence[Mapping[str, Any]] = self.results.get("latency", [])
        if not rows:
            return None
        header: tuple[str, ...] = ("model", "measured on", "batch", "median (ms)")
        cells = [(row["model"], conditions(row), cell(row["batch"]), cell(row["median_ms"])) for row in rows]
        if not any("speedup" in row for row in rows):
            return Table(header, tuple(cells))
        speedups = [speedup(row) for row in rows]
        with_speedups = tuple((*row, gain) for row, gain in zip(cells, speedups, strict=True))
        return Table((*header, "speed-up (95 % interval)"), with_speedups)

    @property
    def levers_table(self) -> Table | None:
        """Narrower MLPs alone, merged tokens alone, and both, where the model uses both."""
        return levers_table(self.results.get("levers", []), tower="part" in self.results["cost"])

    @property
    def receipt_table(self) -> Table | None:
        """The ways in which the saved checkpoint was loaded, and the largest difference of its outputs."""
        rows = self.results.get("receipt", [])
        if not rows:
            return None
        names = [row["way"] + (", without merging" if row.get("without_merging") else "") for row in rows]
        versions = [row["transformers"] for row in rows]
        cells = zip(names, versions, (text.number(row["max_abs_difference"]) for row in rows), strict=True)
        return Table(("loaded by", "transformers", "largest difference of an output"), tuple(cells))

    @property
    def exports_table(self) -> Table | None:
        """The exported files with their figures."""
        if not self.exports:
            return None
        header, rows = export_cells(self.exports)
        return Table(header, tuple(tuple(cell or "" for cell in row) for row in rows))

    @property
    def exports_sentence(self) -> str:
        """On what the exported files were compared, and where their latency was measured."""
        return comparison(self.exports)

    @property
    def has_scaled_differences(self) -> bool:
        """Whether differences of exported files are also given in units of the outputs."""
        return any("max_scaled_difference" in row for row in self.exports)

    @property
    def onnx_file(self) -> Markdown | None:
        """The ONNX file of the snippet for ONNX Runtime; None where there is none, or the model is no classifier."""
        names = {row["precision"]: row["file"] for row in self.exports if row["format"] == "onnx"}
        usable = self.is_classifier and self.has_processor
        return Markdown(names.get("fp32") or next(iter(names.values()))) if names and usable else None

    @property
    def onnx_weights(self) -> tuple[Markdown, ...]:
        """The second file of the snippet's ONNX file, which holds weights of more than 2 GB."""
        files: Results = next((row["files"] for row in self.exports if row["file"] == self.onnx_file), {})
        return tuple(Markdown(name) for name in sorted(files) if name.endswith("_data"))

    @property
    def browser_has_weights_file(self) -> bool:
        """Whether the file that transformers.js loads has its weights in a second one."""
        rows = [row for row in self.exports if row["format"] == "onnx"]
        chosen = [row for row in rows if row["precision"] == ("int8" if self.browser_dtype == "q8" else "fp32")]
        return any(name.endswith("_data") for row in chosen for name in row["files"])

    @property
    def browser_dtype(self) -> Markdown:
        """The ``dtype`` by which transformers.js loads the smallest ONNX file."""
        precisions = {row["precision"] for row in self.exports if row["format"] == "onnx"}
        return Markdown("q8" if "int8" in precisions else "fp32")

    @property
    def predicted_table(self) -> Table | None:
        """Output error predicted before pruning, and observed after it."""
        predicted = dict(scalars(self.results.get("predicted", {})))
        evaluation = self.results.get("evaluation", {})
        observed = dict(scalars(self.results.get("observed", {})))
        observed |= {key: value for key, value in evaluation.get("pruned", {}).items() if key in ("agreement", "kl")}
        if "retention" in evaluation:
            observed["retention"] = evaluation["retention"]
        if not predicted:
            return None
        keys = [*predicted, *(key for key in observed if key not in predicted)]
        rows = [(label(key), figure(key, predicted.get(key)), figure(key, observed.get(key))) for key in keys]
        return Table(("", "predicted", "observed"), tuple(rows))

    @property
    def data_table(self) -> Table | None:
        """Source and number of the images of each step."""
        rows = []
        for use in ("calibration", "evaluation", "bank", "finetuning"):
            row = self.results.get("data", {}).get(use)
            if row:
                numbers = (text.count(row[key]) if key in row else "" for key in ("images", "tokens"))
                rows.append((use, row["source"], row.get("split", ""), *numbers))
        return Table(("used for", "source", "split", "images", "tokens"), tuple(rows)) if rows else None

    @property
    def statistics_table(self) -> Table | None:
        """Agreement between the halves of the calibration images, if it was measured."""
        return details(self.results.get("statistics", {}))

    @property
    def halves_sentence(self) -> str | None:
        """Agreement between the neurons that each half of the images would keep, at the nearest measured ratio."""
        overlaps = self.results.get("statistics", {}).get("halves", {}).get("overlaps", [])
        if not overlaps:
            return None
        row = min(overlaps, key=lambda row: abs(row["ratio"] - self.plan["ratio"]))
        return (
            f"Ranked by variance, each half of the images alone would keep {text.percent(row['kept'])} of the neurons "
            f"that the other half keeps, when {text.percent(row['ratio'], 0)} are removed."
        )

    @property
    def finetuning_table(self) -> Table | None:
        """Settings and course of the fine-tuning."""
        run = self.results.get("finetuning", {})
        return details({key: value for key, value in run.items() if key != "command"})

    @property
    def versions_line(self) -> Markdown:
        """The versions of the packages that were used."""
        pairs = self.results["versions"].items()
        return Markdown(", ".join(f"{text.foreign(key)} {text.foreign(value)}" for key, value in pairs))

    @property
    def command(self) -> Markdown | None:
        """The command that pruned the model, for a code block."""
        command = self.results.get("command")
        return text.code_block(command) if command else None

    @property
    def finetuning_command(self) -> Markdown | None:
        """The command that fine-tuned the model, for a code block."""
        command = self.results.get("finetuning", {}).get("command")
        return text.code_block(command) if command else None

    @property
    def recipe(self) -> str | None:
        """The name of the recipe of the fine-tuning, which is saved as recipe.yaml."""
        recipe = self.results.get("finetuning", {}).get("recipe")
        return None if recipe is None else str(recipe)

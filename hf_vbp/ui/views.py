"""The texts and tables of the page, from plain results. Everything from other people is escaped."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from hf_vbp.results.cost_part import of_part
from hf_vbp.results.named_figures import figure_rows
from hf_vbp.ui.worker import Job

if TYPE_CHECKING:
    from hf_vbp.hub.jobs import HubJob
    from hf_vbp.pruning.preview import Preview

Row = Sequence[str]
MEASURE = "Measure latency and merged tokens"


def table(head: Row, rows: Iterable[Row], caption: str) -> str:
    """Return a table that can be scrolled on narrow screens; the first column names the row."""
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    return (
        f'<div class="vbp-table"><table><caption>{escape(caption)}</caption><thead><tr>{columns}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def error(text: str) -> str:
    """Return a failure, which screen readers announce."""
    return f'<div role="alert" class="vbp-error">{escape(text)}</div>'


def note(text: str) -> str:
    """Return a remark."""
    return f'<p class="vbp-note">{escape(text)}</p>'


def percent(share: float) -> str:
    """Return a share as a percentage; small ones with two significant digits."""
    value = 100 * share
    return f"{value:.1f} %" if value >= 1 or value == 0 else f"{value:.2g} %" if value >= 1e-3 else "below 0.001 %"


def scaled(number: float, unit: str = "") -> str:
    """Return a number in the unit that suits it: G, M or k."""
    name, size = next(((n, s) for n, s in (("G", 1e9), ("M", 1e6), ("k", 1e3)) if number >= s), ("", 1))
    return f"{number / size:.2f} {name}{unit}".strip()


def inspected(found: Mapping[str, Any]) -> str:
    """Return what the config of a model tells."""
    sites, reach = found["sites"], found["reachable"]
    macs = _macs(found)
    rows = [
        ("Architecture", found["architecture"]),
        (f"Parameters{of_part(found['part'])}", scaled(found["parameters"])),
        (f"MACs of one image{of_part(found['part'])}", macs[0]),
        ("MLPs that can be pruned", str(len(sites))),
        ("Their share of the parameters", percent(sum(site["parameters"] for site in sites))),
        ("Their share of the MACs", macs[1]),
        ("Most neurons that can be removed", percent(reach["ratio"])),
        ("Fewest parameters that remain", percent(reach["parameters"])),
        ("Fewest MACs that remain", macs[2]),
        ("Merged tokens", "supported" if found["merging"] is None else f"not supported: {found['merging']}"),
        ("Memory for pruning, about", scaled(found["memory"], "B")),
    ]
    if found["download"]:
        rows.append(("Download", scaled(found["download"], "B")))
    parts = [table(("", "value"), rows, f"{found['model']}, read from its config alone")]
    parts += [note(f"Left out: {name}, {reason}") for name, reason in list(found["left_out"].items())[:10]]
    if not found["processor"]:
        parts.append(error("This model has no image processor, so images cannot be prepared for it here."))
    return "".join(parts)


def _macs(found: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the MACs of a model, the share of its MLPs, and the fewest that remain."""
    if "macs_not_counted" in found:
        return (f"not counted: {found['macs_not_counted']}", "not counted", "not counted")
    share = percent(sum(site["macs"] for site in found["sites"]))
    return scaled(found["macs"]), share, percent(found["reachable"]["macs"])


def preview(found: "Preview", *, asked: str, statistics: str, measured: bool = True) -> str:
    """Return the figures of a preview.

    Args:
        found: The preview.
        asked: The budget in words.
        statistics: What the prediction is made from.
        measured: Whether the measurements were made that the choice of merged tokens needs.
    """
    rows = [
        (
            label,
            scaled(found.dense[key], unit),
            scaled(found.cost[key], unit),
            percent(found.cost[key] / found.dense[key]),
        )
        for label, key, unit in (("Parameters", "parameters", ""), ("MACs", "macs", ""), ("File size", "bytes", "B"))
    ]
    if found.latency is not None:
        rows.append(("Latency (estimate)", "", "", percent(found.latency)))
    damage = [
        ("Predicted output error of the MLPs", "unknown" if found.predicted is None else percent(found.predicted))
    ]
    if found.distance is not None:
        damage.append(("Output distance to the dense model (estimate)", f"{found.distance:.3f} nats"))
    label = "Merged tokens before each block (estimate)" if found.number else "Merged tokens"
    damage.append((label, str(found.number) if measured else "not measured yet"))
    advice = "" if measured else f"Merged tokens are not measured yet: press “{MEASURE}”. Until then none are merged."
    return (
        table(("", "dense", "pruned", "kept"), rows, f"Cost{of_part(found.cost_part)} with {asked}")
        + table(("", "value"), damage, f"Expected damage, {statistics}")
        + (note(advice) if advice else "")
    )


def progress(job: Job | None, ahead: int) -> str:
    """Return the state of long work."""
    if job is None:
        return note("No work is running.")
    if job.state == "waiting":
        queue = f"waiting, {ahead} {'job' if ahead == 1 else 'jobs'} before it in the queue" if ahead else "starting"
        return status(f"{job.title}: {queue}.")
    if job.state == "running":
        count = f" {job.finished} of {job.total}" if job.total else f" {job.finished}" if job.finished else ""
        bar = f'<progress aria-label="{escape(job.stage)}" max="{job.total}" value="{job.finished}"></progress>'
        return status(f"{job.title}: {job.stage}{count}", bar if job.total else "")
    remarks = "".join(note(text) for text in job.remarks)
    if job.state == "done":
        return status(f"{job.title}: done.") + remarks
    return (error(f"{job.title}: {job.error}") if job.state == "failed" else status(job.error)) + remarks


def status(text: str, more: str = "") -> str:
    """Return a state that screen readers announce when they are idle."""
    return f'<div role="status" class="vbp-status">{escape(text)}{more}</div>'


def receipt(results: Mapping[str, Any], name: str) -> str:
    """Return the figures of a pruned checkpoint and the ways in which it was verified."""
    plan, cost = results["plan"], results["cost"]
    rows: list[Row] = [("Hidden neurons removed", "", percent(plan["ratio"]))]
    for label, key in (("Parameters", "parameters"), ("MACs", "macs"), ("File size", "bytes")):
        label += of_part(cost.get("part", ""))
        rows.append((label, scaled(cost["dense"][key]), scaled(cost["pruned"][key])))
    evaluation = results.get("evaluation", {})
    before, after = evaluation.get("dense", {}), evaluation.get("pruned", {})
    if "top1" in after:
        rows.append(("Top-1 accuracy", percent(before["top1"]), percent(after["top1"])))
    if "agreement" in after:
        rows.append(("Agreement with the dense model", "", percent(after["agreement"])))
    if "kl" in after:
        rows.append(("KL from the dense model", "", f"{after['kl']:.3f} nats"))
    # Of models that are no classifiers: distances of their outputs, neighbors, prompts.
    rows += figure_rows(evaluation, ("dense", "pruned"))
    predicted = results["predicted"].get("relative_output_error")
    if predicted is not None:
        rows.append(("Output error of the MLPs, predicted", "", percent(predicted)))
    observed = results.get("observed", {}).get("relative_output_error")
    if observed is not None:
        rows.append(("Output error of the MLPs, observed", "", percent(observed)))
    ways = [(entry["way"], f"{entry['max_abs_difference']:g}") for entry in results.get("receipt", ())]
    return table(("", "dense", "pruned"), rows, name) + table(
        ("loaded by", "largest difference of outputs"), ways, "Receipt: reopened in a fresh process"
    )


def hub_job(job: "HubJob") -> str:
    """Return the state of a Job on the Hub."""
    text = f"Job {job.id}: {job.stage}{f', {job.message}' if job.message else ''}. This page may be closed."
    return status(text, f' <a href="{escape(job.url)}" target="_blank" rel="noopener">Open its page</a>')

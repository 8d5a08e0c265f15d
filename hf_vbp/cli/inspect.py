"""``hf-vbp inspect``: list the MLPs of a model that can be pruned."""

from collections.abc import Iterator
from math import ceil, floor
from typing import Any

from hf_vbp.cli import groups
from hf_vbp.cli.console import percent, print_json, print_lines, print_table, scaled
from hf_vbp.cli.groups import SourceOptions, with_groups
from hf_vbp.results.cost_part import of_part


@with_groups
def inspect(model: groups.Model, source: SourceOptions, json: groups.Json = False) -> None:
    """List the MLPs of a model, their shares of parameters and MACs, and the most that can be removed.

    Only the config of the model is read, no weights.
    """
    from hf_vbp.adapters.prepared import prepare_structure
    from hf_vbp.workflow.inspect import inspect_model

    found = inspect_model(prepare_structure(source.loading().structure(model)))
    if json:
        print_json(found)
        return
    rows = [
        (site["name"], site["intermediate_size"], percent(site["parameters"]), *_of_macs(site))
        for site in found["sites"]
    ]
    parameters = percent(sum(site["parameters"] for site in found["sites"]))
    macs = () if _has_no_macs(found) else (percent(sum(site["macs"] for site in found["sites"])),)
    rows.append(("all MLPs", sum(site["intermediate_size"] for site in found["sites"]), parameters, *macs))
    total = "MACs not counted" if _has_no_macs(found) else f"{scaled(found['macs'])[0]} MACs"
    title = f"{found['architecture']}: {scaled(found['parameters'])[0]} parameters, {total}{of_part(found['part'])}"
    columns = ("MLP", "width", "of parameters", *(() if _has_no_macs(found) else ("of MACs",)))
    print_table(title, columns, rows)
    if _has_no_macs(found):
        print_lines([f"MACs not counted: {found['macs_not_counted']}."])
    print_lines(_reachable(found))
    if found["part"]:
        print_lines([f"All figures are of the vision tower, {found['part']}: budgets count nothing else."])
    print_lines(f"left out: {name}, {reason}" for name, reason in found["left_out"].items())


def _has_no_macs(found: dict[str, Any]) -> bool:
    return "macs_not_counted" in found


def _of_macs(site: dict[str, Any]) -> tuple[str | None, ...]:
    return () if site["macs"] is None else (percent(site["macs"]),)


def _reachable(found: dict[str, Any]) -> Iterator[str]:
    # Rounded so that a budget of the printed share can be met.
    reachable = found["reachable"]
    neurons = sum(site["intermediate_size"] for site in found["sites"])
    shares = {name: share for name, share in reachable.items() if name != "minimum_width" and share is not None}
    kept = {name: percent(ceil(1000 * share) / 1000) for name, share in shares.items()}
    of_macs = f" and {kept['macs']} of the MACs" if "macs" in kept else ""
    yield (
        f"At most {round(reachable['ratio'] * neurons)} of the {neurons} hidden neurons can be removed "
        f"({percent(floor(1000 * reachable['ratio']) / 1000)}): each MLP keeps {reachable['minimum_width']}. Then "
        f"{kept['parameters']} of the parameters{of_macs}{of_part(found['part'])} remain."
    )
    if "macs_with_merged_tokens" in kept:
        yield f"With merged tokens too, down to {kept['macs_with_merged_tokens']} of the MACs{of_part(found['part'])}."

"""``hf-vbp inspect``: list the MLPs of a model that can be pruned."""

from hf_vbp.cli import groups
from hf_vbp.cli.console import percent, print_json, print_lines, print_table, scaled
from hf_vbp.cli.groups import SourceOptions, with_groups


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
        (site["name"], site["intermediate_size"], percent(site["parameters"]), percent(site["macs"]))
        for site in found["sites"]
    ]
    shares = [percent(sum(site[key] for site in found["sites"])) for key in ("parameters", "macs")]
    rows.append(("all MLPs", sum(site["intermediate_size"] for site in found["sites"]), *shares))
    (parameters,), (macs,) = scaled(found["parameters"]), scaled(found["macs"])
    title = f"{found['architecture']}: {parameters} parameters, {macs} MACs"
    print_table(title, ("MLP", "width", "of parameters", "of MACs"), rows)
    reachable = found["reachable"]
    print_lines(
        [
            f"At most {percent(reachable['ratio'])} of the hidden neurons can be removed: each MLP keeps "
            f"{reachable['minimum_width']}. Then {percent(reachable['parameters'])} of the parameters and "
            f"{percent(reachable['macs'])} of the MACs remain."
        ]
    )
    print_lines(f"left out: {name}, {reason}" for name, reason in found["left_out"].items())

"""``hf-vbp inspect``: what can be pruned of a model."""

import json as json_module
import sys

from hf_vbp.cli import groups
from hf_vbp.cli.console import percent, scaled, standard_output, table


def inspect(
    model: groups.Model,
    revision: groups.Revision = None,
    json: groups.Json = False,
) -> None:
    """List the MLPs of a model, their widths and their share of parameters and MACs."""
    from hf_vbp.workflow.inspect import inspect_model
    from hf_vbp.workflow.loading import load_model

    found = inspect_model(load_model(model, revision=revision).model)
    if json:
        sys.stdout.write(json_module.dumps(found, indent=2) + "\n")
        return
    rows = [
        (site["name"], site["intermediate_size"], percent(site["parameters"]), percent(site["macs"]))
        for site in found["sites"]
    ]
    shares = [percent(sum(site[key] for site in found["sites"])) for key in ("parameters", "macs")]
    rows.append(("all MLPs", sum(site["intermediate_size"] for site in found["sites"]), *shares))
    (parameters,), (macs,) = scaled(found["parameters"]), scaled(found["macs"])
    title = f"{found['architecture']}: {parameters} parameters, {macs} MACs"
    console = standard_output()
    console.print(table(title, ("MLP", "intermediate_size", "of parameters", "of MACs"), rows))
    reachable = found["reachable"]
    console.print(
        f"At most {percent(reachable['ratio'])} of the hidden neurons can be removed: each MLP keeps "
        f"{reachable['minimum_width']}. Then {percent(reachable['parameters'])} of the parameters and "
        f"{percent(reachable['macs'])} of the MACs remain.",
        markup=False,
    )
    for name, reason in found["left_out"].items():
        console.print(f"left out: {name}, {reason}", markup=False)

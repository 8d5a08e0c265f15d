"""What of a model can be pruned, before anything is gathered."""

from dataclasses import asdict, dataclass
from typing import Any

from hf_vbp.adapters.prepared import prepare
from hf_vbp.adapters.registry import get_adapter


@dataclass(frozen=True)
class SiteRow:
    """One MLP site and what it weighs.

    Attributes:
        index: Position in the order of the forward pass.
        name: Name of the site.
        intermediate_size: Its hidden neurons.
        parameters: Share of the model's parameters that goes if all of them go.
        macs: Share of the model's MACs likewise.
    """

    index: int
    name: str
    intermediate_size: int
    parameters: float
    macs: float


def inspect_model(model: Any) -> dict[str, Any]:
    """Return the sites of a model, their shares, and what was left out with the reason.

    Args:
        model: A transformers model of a registered family.

    Returns:
        ``{"model_type", "architecture", "parameters", "macs", "sites": [...], "left_out": {...}}``, ready for JSON.

    Raises:
        UnsupportedModelError: The model has no MLP sites, or one that is not what its adapter says.
    """
    from hf_vbp.costs.counts import count_macs, count_parameters

    sites = prepare(model).sites
    parameters, macs, tokens = count_parameters(model), count_macs(model), _tokens_per_image(model, sites)
    rows = [
        SiteRow(
            site.index,
            site.name,
            site.intermediate_size,
            site.intermediate_size * site.parameters_per_neuron / parameters,
            site.intermediate_size * seen * (site.fc1.in_features + site.fc2.out_features) / macs,
        )
        for site, seen in zip(sites, tokens, strict=True)
    ]
    return {
        "model_type": model.config.model_type,
        "architecture": type(model).__name__,
        "parameters": parameters,
        "macs": macs,
        "sites": [asdict(row) for row in rows],
        "left_out": get_adapter(model).left_out(model),
    }


def _tokens_per_image(model: Any, sites: Any) -> list[int]:
    import torch

    from hf_vbp.inputs.images import blank_images

    seen: list[int] = []
    handles = [
        site.fc2.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numel() // inputs[0].shape[-1]))
        for site in sites
    ]
    try:
        with torch.inference_mode():
            model(pixel_values=blank_images(model))
    finally:
        for handle in handles:
            handle.remove()
    return seen

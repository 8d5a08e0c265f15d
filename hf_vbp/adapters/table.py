"""The adapter of every model: finds its MLPs by the table that travels with checkpoints."""

from typing import Any

from torch import nn

from hf_vbp.adapters.base import MLPSite
from hf_vbp.adapters.modalities import check_takes_images
from hf_vbp.errors import UnsupportedModelError
from hf_vbp.modeling.modeling_hf_vbp import LAYOUTS, find_mlps, pruned_parts, search, why_left_out

_POOLER = "its output is not used for classification and it is not a two-layer MLP"


class TableAdapter:
    """Finds the MLPs whose modules are named in :data:`~hf_vbp.modeling.modeling_hf_vbp.LAYOUTS`."""

    def find_sites(self, model: nn.Module) -> tuple[MLPSite, ...]:
        """Return the MLP sites of ``model`` in block order.

        Raises:
            UnsupportedModelError: A projection is not a plain layer of torch (quantized, LoRA, tensor parallel).
        """
        config: Any = model.config
        check_takes_images(config, type(model).__name__)
        # A pruned model is read by its record, so that it is pruned again at the same places.
        parts = pruned_parts(model)
        is_pruned = len(parts) == 1 and not parts[0][0]
        mlps = find_mlps(model, parts[0][2] if is_pruned else None)
        sites = tuple(MLPSite.of(index, mlp) for index, mlp in enumerate(mlps))
        for site in sites:
            for name, (module, _) in zip(site.mlp.names, site.mlp.modules, strict=True):
                _check_plain(name, module)
        return sites

    def left_out(self, model: nn.Module) -> dict[str, str]:
        """Return the modules that resemble an MLP but are not pruned: qualified name to the reason."""
        found = {}
        config: Any = model.config
        for mlp in search(model, LAYOUTS, include_all=True):
            reason = why_left_out(mlp.parent, config.model_type)
            if reason is not None:
                found[mlp.parent] = reason
        for name, module in model.named_modules():
            if name.rpartition(".")[2] == "pooler" and any(True for _ in module.parameters()):
                found[name] = _POOLER
        return found


def _check_plain(name: str, module: nn.Module) -> None:
    # Subclasses (quantized, LoRA, tensor parallel linears) do not store their weights as nn.Linear does.
    layered = isinstance(module, nn.Linear | nn.Conv2d)
    if layered and type(module) not in (nn.Linear, nn.Conv2d):
        raise UnsupportedModelError(
            f"{name} is a {type(module).__module__}.{type(module).__qualname__}, expected a plain "
            f"torch.nn.{'Linear' if isinstance(module, nn.Linear) else 'Conv2d'}. Prune the plain model first; "
            "quantize it or add PEFT adapters afterwards."
        )

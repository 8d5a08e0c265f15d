"""The outputs of a model in memory, with which those of the saved one are compared."""

from collections.abc import Mapping
from typing import Any

import torch

from hf_vbp.calibration.batch_moments import full_precision
from hf_vbp.checkpoint.fresh_process import flattened
from hf_vbp.errors import CheckpointError
from hf_vbp.modeling.precision import eval_mode, forward_of_class, own_precision


def reference_outputs(model: Any, inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return every floating output of a model in evaluation mode, by name, on the CPU.

    The model computes as a loaded one does: in its own dtype, without autocast or reduced float32 precision, and
    with the forward of its class, also after ``accelerator.prepare(model)`` and inside an autocast region.

    Args:
        model: Any vision model; the mode of each module is not changed.
        inputs: The arguments of the forward pass, in the model's dtype.

    Raises:
        CheckpointError: The model gives NaN or infinity, or no tensor at all.
    """
    device = next(model.parameters()).device
    given = {key: _on(value, device) for key, value in inputs.items()}
    with torch.no_grad(), eval_mode(model), own_precision(model), forward_of_class(model), full_precision(device):
        output = model(**given)
    # Copies, because a model may return a tensor under several names, and tensors that share memory cannot be written.
    outputs = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in flattened(output).items()
        if value.is_floating_point()
    }
    if not outputs or not all(torch.isfinite(value).all() for value in outputs.values()):
        raise CheckpointError(
            f"{type(model).__name__} gives {'NaN or infinity' if outputs else 'no tensor'} for random images, so "
            "the saved model cannot be compared with it. Check its weights, or save with verify=False."
        )
    return outputs


def _on(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value

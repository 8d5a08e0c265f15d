"""The batches of real processors prune their models; pipelines are in the test of reloading."""

import pytest
import torch

import hf_vbp
from hf_vbp import VBPConfig

from . import contract
from .contract import PRUNED, work_of
from .family import Family
from .processors import FROM_TENSORS, NEEDS_TORCHVISION, TORCHVISION, batch_of, processor_of

WITH = [family for family in PRUNED if family.class_name not in FROM_TENSORS]


def marks(family: Family) -> list[pytest.MarkDecorator]:
    """What cannot run here; variants of a class are slow."""
    missing = family.class_name in NEEDS_TORCHVISION and not TORCHVISION
    skipped = pytest.mark.skipif(missing, reason="the processor needs torchvision (make test-vision)")
    return [skipped, *([pytest.mark.slow] if family.name != family.class_name and not TORCHVISION else [])]


@pytest.mark.parametrize("family", [pytest.param(one, id=one.name, marks=marks(one)) for one in WITH])
@pytest.mark.filterwarnings("ignore:the neurons of")
def test_batches_of_the_processor_prune_by_the_preset_of_the_paper(family: Family) -> None:
    work = work_of(family.name)
    processor = processor_of(family, work.model)
    batch = batch_of(family, work.model, processor)
    if contract.has_bias(family):
        config = VBPConfig.preset("paper", ratio=contract.RATIO)
    else:
        config = VBPConfig(ratio=contract.RATIO, criterion="variance", compensation="none")
    result = hf_vbp.prune(work.prepared, [batch], config)
    assert result.statistics.images == 2
    assert 0 < sum(result.plan.widths) < sum(result.plan.dense_widths)
    inputs = hf_vbp_inputs(result.model, batch)
    assert all(torch.isfinite(value).all() for value in contract.outputs(result.model, inputs).values())


def hf_vbp_inputs(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The entries of a batch that the model takes."""
    from hf_vbp.inputs.batch import model_inputs

    return model_inputs(model, batch)


def test_the_lists_name_classes_of_the_zoo() -> None:
    names = {family.class_name for family in PRUNED}
    assert names >= FROM_TENSORS | NEEDS_TORCHVISION

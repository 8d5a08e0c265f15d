"""Find and verify the MLP sites of a model. Nothing is computed here."""

from hf_vbp.adapters.base import Adapter, MLPSite
from hf_vbp.adapters.linear_pair import LinearPairAdapter
from hf_vbp.adapters.prepared import PreparedModel, prepare
from hf_vbp.adapters.prunable import check_finite_weights, check_prunable
from hf_vbp.adapters.registry import find_sites, get_adapter, register_adapter, registered_model_types
from hf_vbp.adapters.structure import check_structure
from hf_vbp.adapters.table import TableAdapter
from hf_vbp.modeling.modeling_hf_vbp import Layout

__all__ = [
    "Adapter",
    "Layout",
    "LinearPairAdapter",
    "MLPSite",
    "PreparedModel",
    "TableAdapter",
    "check_finite_weights",
    "check_prunable",
    "check_structure",
    "find_sites",
    "get_adapter",
    "prepare",
    "register_adapter",
    "registered_model_types",
]

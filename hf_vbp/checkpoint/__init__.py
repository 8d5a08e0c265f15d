"""How a pruned model is stored, loaded and proved: config records, saving, loading, stock layouts."""

from hf_vbp.checkpoint.widths import read_widths, write_widths

__all__ = ["read_widths", "write_widths"]

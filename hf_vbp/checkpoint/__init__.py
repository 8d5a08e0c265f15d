"""How a pruned model is stored and proved: config records, atomic saving, the remote file, stock layouts."""

from hf_vbp.checkpoint.output import check_output_directory
from hf_vbp.checkpoint.saving import save_checkpoint
from hf_vbp.checkpoint.stock import to_stock
from hf_vbp.checkpoint.widths import read_widths, write_widths
from hf_vbp.receipt import Receipt, ReceiptEntry, verify_checkpoint

__all__ = [
    "Receipt",
    "ReceiptEntry",
    "check_output_directory",
    "read_widths",
    "save_checkpoint",
    "to_stock",
    "verify_checkpoint",
    "write_widths",
]

"""Starts the page of hf_vbp on a Space."""

from hf_vbp.ui.launch import launch

# The process that inspects models imports this file again.
if __name__ == "__main__":
    launch("0.0.0.0", 7860)

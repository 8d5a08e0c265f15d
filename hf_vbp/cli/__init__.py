"""The command line. Thin: one file per sub-command, no logic, nothing heavy imported before it is needed."""

from hf_vbp.cli.app import main

__all__ = ["main"]

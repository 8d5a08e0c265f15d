"""Variance-Based Pruning for Hugging Face vision transformers."""

from hf_vbp._version import __version__

__all__ = ["__version__"]

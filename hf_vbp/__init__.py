"""Variance-Based Pruning for Hugging Face vision transformers.

The public names are listed once, in ``__init__.pyi``, and each is imported when it is first used. Importing the
package itself is light: it only prepares transformers to load pruned checkpoints, see docs/checkpoints.md.
"""

import lazy_loader

from hf_vbp.checkpoint.transformers_patch import patch_transformers

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

patch_transformers()

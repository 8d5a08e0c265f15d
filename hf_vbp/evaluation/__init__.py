"""Accuracy of a model, and its distance from the dense model.

The public names are listed once, in ``__init__.pyi``, and each is imported when it is first used, because the
``evaluate`` library takes a second to import.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""Errors raised by the code of users: modules that are imported, criteria, compensations and adapters.

Such an error is not a fault of this package, so its message names the code that raised it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from hf_vbp._progress import one_line
from hf_vbp.errors import ConfigurationError, HfVbpError


@contextmanager
def named_in_errors(code: str, owner: type | None = None) -> Iterator[None]:
    """Report errors of the code of users by its name; those of hf_vbp and a lack of memory pass unchanged.

    Args:
        code: Name of the code, for instance ``"rank of criterion 'mine'"``.
        owner: The class whose code runs; errors of a class of this package pass unchanged.

    Raises:
        ConfigurationError: The code raised an error.
    """
    try:
        yield
    except (HfVbpError, MemoryError):
        raise
    except Exception as error:
        if owner is not None and owner.__module__.startswith("hf_vbp."):
            raise
        raise ConfigurationError(
            f"{code} raised {type(error).__name__}: {one_line(error)}. Correct this code; it is not part of hf_vbp."
        ) from error

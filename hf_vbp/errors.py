"""The errors that hf_vbp raises.

All derive from :class:`HfVbpError` and from a fitting builtin, so that callers may catch either. A message
states the given value, the expected one and the next step; the command line prints it as one sentence and exits
with code 2.
"""


class HfVbpError(Exception):
    """Base class of all errors of this package."""


class ConfigurationError(HfVbpError, ValueError):
    """Invalid argument, option or file of settings."""


class MissingPackageError(HfVbpError, ImportError):
    """A package that hf_vbp does not depend on, but that a model or an option needs, is not installed."""


class UnsupportedModelError(HfVbpError, TypeError):
    """A model whose MLPs cannot be found or pruned in its present form (text model, gated MLP, quantized, PEFT...)."""


class StatisticsError(HfVbpError, ValueError):
    """Statistics that cannot be gathered, read, merged or used."""


class StatisticsMismatchError(StatisticsError):
    """Statistics that belong to another model, or that cannot be merged with each other."""


class NonFiniteError(StatisticsError, ArithmeticError):
    """NaN or infinity in weights or activations."""


class BudgetError(HfVbpError, ValueError):
    """A budget that pruning the MLPs cannot meet."""


class LatencyError(HfVbpError, RuntimeError):
    """The latency cannot be measured: the times on this machine vary too much."""


class PlanError(HfVbpError, ValueError):
    """A pruning plan that is malformed or belongs to another model."""


class CheckpointError(HfVbpError, OSError):
    """A checkpoint that cannot be written, or whose content does not match its config."""


class OutputError(HfVbpError, OSError):
    """An output that cannot be written, or that must not be replaced."""


class DataError(HfVbpError, ValueError):
    """Images that cannot be found, read or used."""


class LabelError(DataError):
    """Class names of a data set that do not match the labels of a model."""


class HubError(HfVbpError, OSError):
    """The Hub refused a request, or did not answer."""

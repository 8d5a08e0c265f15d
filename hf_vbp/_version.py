"""The version of the package, in a separate file so that reading it imports nothing."""

__version__ = "0.1.0"

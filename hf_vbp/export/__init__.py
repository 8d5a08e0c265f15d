"""Exports for other runtimes."""

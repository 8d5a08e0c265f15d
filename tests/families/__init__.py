"""Tiny random models of every family, with the MLPs that the library should find in each."""

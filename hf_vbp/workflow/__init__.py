"""Whole jobs from names to files, which the command line and the recipes share. No printing here."""

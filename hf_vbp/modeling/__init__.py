"""The file that travels with checkpoints, and its table of MLPs."""

"""The modeling file of pruned checkpoints with its table of MLPs, and the record of widths in configs."""

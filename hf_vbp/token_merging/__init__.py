"""Token merging: how many tokens are merged before each block, and of which models."""

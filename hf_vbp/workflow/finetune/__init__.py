"""Fine-tuning of a pruned checkpoint from a recipe."""

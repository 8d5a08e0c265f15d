"""Fine-tune a pruned checkpoint from a recipe."""

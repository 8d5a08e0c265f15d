"""Saving a pruned model, reloading it, and proving that the two are the same."""

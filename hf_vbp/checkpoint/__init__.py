"""Save a pruned model, load it again, and verify that the outputs are the same."""

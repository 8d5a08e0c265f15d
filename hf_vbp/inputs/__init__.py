"""What a batch of a model is."""

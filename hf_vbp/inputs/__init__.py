"""The inputs of a model: the images of a batch."""

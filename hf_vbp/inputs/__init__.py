"""What a batch is: the inputs of a model, its images, and a batch made from the configs alone."""

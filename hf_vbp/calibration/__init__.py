"""The pass over the images that gathers the statistics."""

"""Writing files so that they are complete or absent, by one process at a time."""

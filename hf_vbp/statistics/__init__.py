"""Statistics of hidden neurons: moments, their file, their fingerprints."""

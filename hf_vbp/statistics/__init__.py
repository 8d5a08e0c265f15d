"""The statistics of hidden neurons as data: moments, their file, their fingerprints."""

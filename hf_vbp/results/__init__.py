"""The typed record behind ``vbp_results.json``."""

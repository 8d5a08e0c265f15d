"""The configuration: method, budget and limits."""

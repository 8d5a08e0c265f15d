"""Make a plan from statistics and a budget, and apply it to a model."""

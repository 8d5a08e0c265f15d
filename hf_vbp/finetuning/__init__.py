"""Recipes: a pruned checkpoint in, the same checkpoint with its accuracy back out."""

"""From statistics and a budget to a plan, and from a plan to a smaller model."""

"""What the user chooses: the method, the budget, the limits."""

"""How the kept weights are adjusted for the removed neurons."""

"""Parameters, MACs, bytes and measured latency."""

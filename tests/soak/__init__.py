"""Long runs: what must not grow, does not."""

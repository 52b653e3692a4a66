"""What `experiments.evaluate` asks, and by which rules."""

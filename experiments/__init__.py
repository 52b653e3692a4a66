"""Training data, tasks and measurements of the shipped model pair."""

"""What the benchmark measures, its suites and its tables."""

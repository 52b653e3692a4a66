"""Where candidates come from, one draft a file."""

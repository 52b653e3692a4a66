"""Recipes for `python -m experiments.train`."""

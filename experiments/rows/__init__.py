"""Prompt rows in, result rows out."""

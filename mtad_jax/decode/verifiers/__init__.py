"""How much of a draft stays, one rule a file."""

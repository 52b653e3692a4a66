"""The tasks on which the shipped model pair is trained and measured."""

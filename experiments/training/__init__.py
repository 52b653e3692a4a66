"""The trainer's data, step, loop and export."""

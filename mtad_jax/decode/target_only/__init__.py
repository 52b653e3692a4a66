"""Rules of the target alone: its own beams, by whole texts or by blocks."""

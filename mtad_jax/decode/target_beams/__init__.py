"""Rules of the target's own beams: by whole texts or by blocks, step by step or several a call."""

"""Draft-and-verify decoding: the state, the strategies and the one loop."""

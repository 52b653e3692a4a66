"""Flax transformers behind one small protocol, `CausalLM`."""

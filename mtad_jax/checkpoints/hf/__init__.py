"""Hugging Face folders: names of tensors, settings, safetensors and torch files."""

"""Command line converters between Hugging Face folders and our own."""

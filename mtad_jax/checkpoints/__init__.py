"""Folders of weights: ours and Hugging Face's, read and written tensor by tensor."""

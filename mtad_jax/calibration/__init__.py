"""Which decoding rule pays, measured on the user's own models, machine and prompts."""

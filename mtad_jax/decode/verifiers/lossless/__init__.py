"""The rules that keep the target's law: they test tokens drawn from q, and replace what fails."""

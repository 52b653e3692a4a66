"""One command on several hosts: who takes part, and what happens when one is lost."""

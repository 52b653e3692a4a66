"""Flags that several commands share: defined, read and checked in one place."""

"""Searching by meaning and by words together."""

"""Losses as pure functions on arrays, and their named, weighted sum."""

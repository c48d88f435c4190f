"""Batches of texts of like length, so that little of a batch is padding."""

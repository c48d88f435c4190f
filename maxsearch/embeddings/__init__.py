"""Embeddings of a catalogue or of queries as files that other tools read."""

"""The runner without an engine: one machine, memory that does not grow with the catalogue."""

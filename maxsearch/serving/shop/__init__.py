"""A shop's search: one state of its store made searchable, and the engine that answers from it."""

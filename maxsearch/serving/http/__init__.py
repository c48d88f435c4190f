"""The search service over HTTP: what comes in is checked here, answered by an engine, and counted."""

"""How well a model ranks a catalogue."""

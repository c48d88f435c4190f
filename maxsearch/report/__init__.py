"""A run told on one HTML page and as a model card: how it trained, how good it is, where it fails, what it rests on."""

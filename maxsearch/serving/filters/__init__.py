"""Which products may be shown: typed attributes, filter trees, and searches that keep to them."""

"""A folder of index generations with the writes since, which is searched while it changes."""

"""Tables that users bring: their formats, parts and places, read row by row."""

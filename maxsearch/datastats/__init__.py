"""What prepared datasets hold: counts, lengths, pictures, clicks, duplicates and leakage, as tables and as a page."""

"""What a model is compared with: each a ranker that sees the catalogue once, in order; `spec` makes them."""

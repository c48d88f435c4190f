"""The encoders of query, title and image, and the fusion tower."""

"""Hard negatives, found with a trained model."""

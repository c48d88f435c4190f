"""From a trained model to a searched index."""

"""From a shop's files to batches of examples."""

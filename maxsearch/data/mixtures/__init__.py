"""Several datasets as one source of examples."""

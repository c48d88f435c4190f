"""What benchmarks/stream.py compares: our stream and those of others, each in a process of its own."""

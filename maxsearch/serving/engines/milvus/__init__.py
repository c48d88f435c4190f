"""Search in Milvus: a generation pushed into a collection, and the engine that answers from it."""

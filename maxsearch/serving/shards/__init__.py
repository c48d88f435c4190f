"""An index in shards: split by product, searched apart, and put together into the answers of the whole."""

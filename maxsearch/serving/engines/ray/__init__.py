"""Shards behind Ray Serve: one deployment per shard, each with as many replicas as are asked for."""

"""Texts that preparation has tokenised: a table of token ids beside the shards, and the stream's reader of it."""

"""A catalogue and its interactions, checked, joined and written as shards, by one of several runners."""

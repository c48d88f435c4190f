"""The sub-commands of `maxsearch`: flags and calls, one file each."""

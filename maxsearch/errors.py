"""The failures a user can cause and mend, as one sentence each.

A message says what is wrong, where (file, row, field or flag) and what to do. The command line prints it without a
traceback.
"""


class MaxsearchError(Exception):
    """A public failure; the command line exits with 1."""

    exit_code = 1


class UsageError(MaxsearchError):
    """The command or a config value cannot be used as given; the command line exits with 2."""

    exit_code = 2

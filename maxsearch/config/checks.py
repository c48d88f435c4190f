"""The one way in which a config refuses a value."""

from maxsearch.errors import UsageError


def require(holds: bool, message: str) -> None:
    """Raises UsageError with the message unless the condition holds."""
    if not holds:
        raise UsageError(message)

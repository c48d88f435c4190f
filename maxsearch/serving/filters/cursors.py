"""Where a page ended, as a token that the caller hands back for the next one.

It names the index generation and the request it belongs to, and the last product by score and row: products that were
added or deleted meanwhile move no other product to another page.
"""

import base64
import hashlib
import json
import math
from dataclasses import astuple, dataclass
from typing import Any

from maxsearch.errors import UsageError

MOST_CHARACTERS = 400
REMEDY = "ask for the first page again, without a cursor"


class GoneCursorError(UsageError):
    """The generation that a cursor belongs to is not searched any more."""


@dataclass(frozen=True)
class Cursor:
    """The end of a page.

    Attributes:
      generation: of the index; its rows keep their numbers.
      request: digest of everything else in the request but the page size.
      depth: how many rows the ranking was made for that the pages are cut from.
      delivered: results on the pages so far.
      pins: pinned products among them.
      score, row: of the last product that stood there by its own rank; None before the first.
    """

    generation: str
    request: str
    depth: int
    delivered: int
    pins: int
    score: float | None
    row: int | None

    def encode(self) -> str:
        """The token, in characters that a URL may hold."""
        return base64.urlsafe_b64encode(json.dumps(astuple(self)).encode()).decode().rstrip("=")


def request_digest(request: Any) -> str:
    """A short digest of a JSON value that does not depend on the order of its keys."""
    text = json.dumps(request, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def decode_cursor(token: str, *, generation: str, request: str, where: str = "cursor") -> Cursor:
    """Reads a token.

    Args:
      token: as `Cursor.encode` gave it.
      generation: of the index that will be searched.
      request: digest of the request that comes with it.
      where: its name in messages.

    Raises:
      UsageError: it is none of ours, or belongs to another request.
      GoneCursorError: its generation is gone.
    """
    cursor = _read(token)
    if cursor is None:
        raise UsageError(f"{where}: this is no cursor that a search returned: {REMEDY}")
    if cursor.request != request:
        raise UsageError(f"{where}: it belongs to another query, filter or option: send that one again, or {REMEDY}")
    if cursor.generation != generation:
        raise GoneCursorError(
            f"{where}: it belongs to index generation {cursor.generation!r}, which is gone "
            f"(now {generation!r}): {REMEDY}"
        )
    return cursor


def _read(token: str) -> Cursor | None:
    if not token.isascii() or len(token) > MOST_CHARACTERS:
        return None
    try:
        values = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        cursor = Cursor(*values)
    except (ValueError, TypeError, RecursionError):
        return None
    counts = (cursor.depth, cursor.delivered, cursor.pins)
    sound = (
        isinstance(cursor.generation, str)
        and isinstance(cursor.request, str)
        and all(type(count) is int and 0 <= count < 2**31 for count in counts)
        and (cursor.score is None) == (cursor.row is None)
        and (cursor.score is None or (type(cursor.score) is float and math.isfinite(cursor.score)))
        and (cursor.row is None or (type(cursor.row) is int and 0 <= cursor.row < 2**62))
    )
    return cursor if sound else None

"""The judgments of a held-out part: what shoppers clicked on, as `maxsearch evaluate` reads it."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from maxsearch.data.judgment_files import JUDGMENTS, write_judgment_files

CLICKED = 1  # the grade of a click: how often is a matter of popularity more than of relevance


def query_id(plain: str) -> str:
    """The identifier of a query, without case, width and spaces, in judgments: 16 hex digits of its hash."""
    return hashlib.blake2b(plain.encode(), digest_size=8).hexdigest()


def write_judged(
    folder: Path, condition: str, queries: Iterable[tuple[str, str]], pairs: Iterable[tuple[str, str]]
) -> dict[str, Any]:
    """Writes queries.csv and qrels.tsv of one condition, holding neither in memory.

    Args:
      folder: the part's; they go to judgments/CONDITION in it.
      condition: one of `splits.CONDITIONS`.
      queries: (identifier, query), each once.
      pairs: (identifier of the query, identifier of a product that it led to), each once.

    Returns:
      {"queries", "judgments", "files": [{"name", "bytes", "sha256"}]}.
    """
    judgments = ((*pair, CLICKED) for pair in pairs)
    return write_judgment_files(folder, folder / JUDGMENTS / condition, queries, judgments)

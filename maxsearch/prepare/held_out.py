"""The judgments of a held-out part: what shoppers clicked on, as `maxsearch evaluate` reads it."""

import csv
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from maxsearch.data.layouts.layout import JUDGMENTS, QRELS, QUERIES
from maxsearch.files import sha256_of

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
    place = folder / JUDGMENTS / condition
    place.mkdir(parents=True)
    asked = _write(place / QUERIES, ",", ("query_id", "query"), queries)
    judged = _write(place / QRELS, "\t", ("query_id", "product_id", "grade"), ((*pair, str(CLICKED)) for pair in pairs))
    files = [
        {"name": path.relative_to(folder).as_posix(), "bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in (place / QUERIES, place / QRELS)
    ]
    return {"queries": asked, "judgments": judged, "files": files}


def _write(path: Path, delimiter: str, header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter=delimiter, lineterminator="\n")
        writer.writerow(header)
        for row in rows:
            writer.writerow(row)
            count += 1
        stream.flush()
        os.fsync(stream.fileno())
    return count

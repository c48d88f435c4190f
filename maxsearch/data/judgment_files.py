"""Judgments beside prepared data, in the files that `maxsearch evaluate` reads."""

import csv
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from maxsearch.files import account_of

JUDGMENTS = "judgments"  # the folder
QUERIES, QRELS = "queries.csv", "qrels.tsv"


def write_judgment_files(
    folder: Path, place: Path, queries: Iterable[tuple[str, str]], judgments: Iterable[tuple[str, str, int]]
) -> dict[str, Any]:
    """Writes queries.csv and qrels.tsv, holding neither in memory.

    Args:
      folder: of the prepared data.
      place: the folder in it for the files.
      queries: (identifier, query), each once.
      judgments: (identifier of the query, identifier of the product, grade), each pair once.

    Returns:
      {"queries", "judgments", "files": [{"name", "bytes", "sha256"}]}.
    """
    place.mkdir(parents=True, exist_ok=True)
    asked = _write(place / QUERIES, ",", ("query_id", "query"), queries)
    judged = _write(place / QRELS, "\t", ("query_id", "product_id", "grade"), judgments)
    files = [account_of(place / name, folder) for name in (QUERIES, QRELS)]
    return {"queries": asked, "judgments": judged, "files": files}


def _write(path: Path, delimiter: str, header: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> int:
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

"""The judgments of a held-out part, from the table of pairs."""

from pathlib import Path
from typing import Any

from maxsearch.prepare.embedded.tables import Tables
from maxsearch.prepare.held_out import query_id, write_judged
from maxsearch.prepare.splits import CONDITIONS, TRAIN, condition


def write_held_out(tables: Tables, part: str, folder: Path) -> dict[str, Any]:
    """Writes the judgments of every condition that the part has a pair for.

    Args:
      tables: with `pairs`.
      part: the part.
      folder: its folder.

    Returns:
      {condition: what `write_judged` gives}.
    """
    seen = "plain IN (SELECT plain FROM pairs WHERE part = ?)"
    given = {}
    for seen_query in (True, False):
        for seen_product in (True, False):
            chosen = (
                f"FROM pairs WHERE part = ? AND {'' if seen_query else 'NOT '}{seen} "
                f"AND home {'=' if seen_product else '<>'} ?"
            )
            values = (part, TRAIN, TRAIN)
            if not tables.value(f"SELECT count(*) {chosen}", *values):
                continue
            queries = tables.rows(f"SELECT plain, min(query) {chosen} GROUP BY plain ORDER BY plain", *values)
            pairs = tables.rows(f"SELECT DISTINCT plain, id {chosen} ORDER BY plain, id", *values)
            name = condition(seen_query, seen_product)
            given[name] = write_judged(
                folder,
                name,
                ((query_id(plain), query) for plain, query in queries),
                ((query_id(plain), product_id) for plain, product_id in pairs),
            )
    return {name: given[name] for name in CONDITIONS if name in given}

"""The dead letters: each rejected row in a file, with counts by reason."""

import json
from collections import Counter
from pathlib import Path
from typing import Any, TextIO

from maxsearch.data.catalogue import INTERACTIONS_FILE, PRODUCTS_FILE
from maxsearch.data.tables.files import Table
from maxsearch.data.tables.formats import BadRecord
from maxsearch.errors import MaxsearchError

REJECTED = "rejected.jsonl"


class Rejections:
    """Writes dead letters, counts them, and ends a run with too many."""

    def __init__(self, stream: TextIO, aside: Path, limit: float) -> None:
        """Takes an open file.

        Args:
          stream: REJECTED in the folder that is being written.
          aside: where the file goes when the run fails for the rejections.
          limit: the fraction of a file's rows that may be rejected.
        """
        self._stream = stream
        self._aside = aside
        self._limit = limit
        self._counts: dict[str, Counter[str]] = {PRODUCTS_FILE: Counter(), INTERACTIONS_FILE: Counter()}
        self._images: Counter[str] = Counter()
        self._examples: dict[tuple[str, str], tuple[int, str]] = {}

    def add(self, what: str, path: Table, row: int, bad: BadRecord) -> None:
        """Writes down one rejected row of the products or interactions file."""
        self._counts[what][bad.code] += 1
        self._examples.setdefault((what, bad.code), (row, bad.reason))
        self._write(path, row, bad.code, bad.reason)

    def add_image(self, path: Table, row: int, bad: BadRecord) -> None:
        """Writes down a picture that is left out of a product, which itself is kept."""
        self._images[bad.code] += 1
        self._write(path, row, bad.code, f"{bad.reason}: the product keeps its other images")

    def check(self, what: str, path: Table, rows: int, kept: int) -> None:
        """Ends the run when too many of a file's rows were rejected, or none is left.

        Raises:
          MaxsearchError: so it is; the letters are then at `aside`.
        """
        rejected = self._counts[what].total()
        if rows == 0:
            raise MaxsearchError(f"the {what} {path} has no rows: give a file with rows")
        if kept and rejected <= self._limit * rows:
            return
        self._stream.flush()
        Path(self._stream.name).replace(self._aside)
        code, count = min(self._counts[what].items(), key=lambda item: (-item[1], item[0]))
        row, reason = self._examples[what, code]
        raise MaxsearchError(
            f"{rejected:,} of the {rows:,} rows of the {what} {path} are rejected, more than --max-bad-fraction "
            f"{self._limit:g} allows; most often {code} ({count:,} rows; row {path.said(row)} {reason}): "
            f"see {self._aside} and mend the rows, or raise --max-bad-fraction"
        )

    def summary(self) -> dict[str, Any]:
        """The manifest's account."""
        products, interactions = self._counts[PRODUCTS_FILE], self._counts[INTERACTIONS_FILE]
        return {
            "products": products.total(),
            "interactions": interactions.total(),
            "by_reason": dict(products + interactions),
            "images": dict(self._images),
            "file": REJECTED,
        }

    def _write(self, path: Table, row: int, code: str, reason: str) -> None:
        file, number = path.place(row)
        letter = {"file": file, "row": number, "code": code, "reason": reason}
        self._stream.write(json.dumps(letter, ensure_ascii=False) + "\n")

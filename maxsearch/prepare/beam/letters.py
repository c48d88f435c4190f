"""Rejected rows in a pipeline, gathered in the order of their rows for the process that counts and judges them."""

from collections.abc import Iterator
from typing import Any

import apache_beam as beam

from maxsearch.data.tables.formats import BadRecord
from maxsearch.prepare.beam.numbering import Order
from maxsearch.prepare.beam.sinks import WriteSorted, read_sorted, sorted_files
from maxsearch.prepare.store import Store

LETTERS = "letters"
RANGE = 1 << 20  # neighbouring rows whose letters one file holds

Letter = tuple[int, Order, int, str, str]
"""The table's kind, the row's order, 0 or the number of a lost picture of the row, and the fault's code and reason."""


def letter(kind: int, order: Order, bad: BadRecord, picture: int = 0) -> Letter:
    """The letter of a fault; `picture` counts a product's lost pictures from 1."""
    return kind, order, picture, bad.code, bad.reason.encode("utf-8", "backslashreplace").decode()


class WriteLetters(beam.PTransform):
    """Writes letters to files whose names sort as their rows do."""

    def __init__(self, store: Store) -> None:
        """Takes the place."""
        super().__init__()
        self._store = store

    def expand(self, letters: Any) -> Any:
        """Builds the steps."""
        return letters | "Key by range" >> beam.Map(_with_range) | "Files" >> WriteSorted(self._store, LETTERS)


def read_letters(store: Store, kind: int) -> Iterator[tuple[Order, bool, BadRecord]]:
    """The letters of one table in the order of its rows: (order, whether it is of a picture, fault)."""
    for name in sorted_files(store, LETTERS, f"{kind}-"):
        for _, (part, index, row), picture, code, reason in read_sorted(store, name):
            yield (part, index, row), picture > 0, BadRecord(code, reason)


def _with_range(letter: Letter) -> tuple[str, Letter]:
    kind, (part, index, _), *_ = letter
    return f"{kind}-{part:08d}-{index // RANGE:08d}", letter

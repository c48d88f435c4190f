"""Rejected rows in a pipeline: gathered in the order of their rows, counted and judged by the process that started it."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam

from maxsearch.data.table_formats import BadRecord
from maxsearch.prepare.beam.numbering import Order
from maxsearch.prepare.beam.sinks import write_whole

LETTERS = "letters"
FOLDER = ".letters"
RANGE = 1 << 20  # neighbouring rows whose letters one file holds

Letter = tuple[int, Order, int, str, str]
"""The table's kind, the row's order, 0 for the row or the number of its lost picture, and the fault's code and reason."""


def letter(kind: int, order: Order, bad: BadRecord, picture: int = 0) -> Letter:
    """The letter of a fault; `picture` counts a product's lost pictures from 1."""
    return kind, order, picture, bad.code, bad.reason


class WriteLetters(beam.PTransform):
    """Writes letters to files whose names sort as their rows do."""

    def __init__(self, folder: Path) -> None:
        """Takes the draft's folder."""
        super().__init__()
        self._folder = folder / FOLDER

    def expand(self, letters: Any) -> Any:
        """Builds the steps."""
        folder = self._folder
        return (
            letters
            | "Key by range" >> beam.Map(lambda letter: ((letter[0], letter[1][0], letter[1][1] // RANGE), letter))
            | "Gather ranges" >> beam.GroupByKey()
            | "Write" >> beam.MapTuple(lambda key, group: _write(folder, key, group))
        )


def read_letters(folder: Path, kind: int) -> Iterator[tuple[Order, bool, BadRecord]]:
    """The letters of one table in the order of its rows: (order, whether it is of a picture, fault)."""
    for path in sorted((folder / FOLDER).glob(f"{kind}-*.jsonl")):
        with path.open(encoding="utf-8") as stream:
            for line in stream:
                _, (part, index, row), picture, code, reason = json.loads(line)
                yield (part, index, row), picture > 0, BadRecord(code, reason)


def _write(folder: Path, key: tuple[int, int, int], letters: Iterable[Letter]) -> None:
    kind, part, number = key
    lines = "".join(json.dumps(letter, ensure_ascii=False) + "\n" for letter in sorted(letters))
    write_whole(folder / f"{kind}-{part:08d}-{number:012d}.jsonl", lines.encode())

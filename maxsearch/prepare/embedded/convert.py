"""Rows of the products file to packed records, by worker processes or by threads, in the order of the rows."""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import chain, islice
from multiprocessing import connection, get_context, parent_process
from typing import Any, NamedTuple

from maxsearch.data.pooled import in_order
from maxsearch.data.records import pack_product
from maxsearch.data.tables.formats import BadRecord, Rows
from maxsearch.errors import MaxsearchError
from maxsearch.prepare.steps import ReadProduct, Rules, read_product

CHUNK_ROWS = 32
CHUNK_BYTES = 1 << 22  # rows may hold large pictures
FEW = 2048  # so many rows are converted before it pays to start processes

CheckedRow = tuple[int, dict[str, Any] | BadRecord]


class Converted(NamedTuple):
    """One row, converted.

    Attributes:
      row: its number in the file.
      product: the product without its pictures, or what is wrong with the row.
      packed: the whole product as a record; empty for a wrong row.
    """

    row: int
    product: ReadProduct | BadRecord
    packed: bytes


def converted(rows: Rows, rules: Rules, workers: int | None) -> Iterator[Converted]:
    """Converts rows; the result does not depend on the workers.

    Args:
      rows: the products file's.
      rules: how to read them.
      workers: processes; 0 for threads of this one, which decode pictures outside Python's lock. None starts with these
        and goes on with one process per core where there are more than a few rows.

    Raises:
      UsageError: as `read_product`.
      MaxsearchError: a worker died.
    """
    cores = len(os.sched_getaffinity(0))
    convert = partial(_convert, rules)
    if workers is None or workers == 0:
        few = rows if workers == 0 or cores == 1 else islice(rows, FEW)
        with ThreadPoolExecutor(cores) as threads:
            yield from chain.from_iterable(in_order(threads, convert, _chunks(few), 2 * cores))
        if few is rows:
            return
        first = next(rows, None)
        if first is None:
            return
        rows = chain([first], rows)
    count = workers or cores
    context = get_context("spawn")  # the libraries around hold threads, which do not survive a fork
    try:
        with ProcessPoolExecutor(count, context, initializer=_begin) as processes:
            yield from chain.from_iterable(in_order(processes, convert, _chunks(rows), 2 * count))
    except BrokenProcessPool:
        raise MaxsearchError(
            "a worker process of prepare died, most often for lack of memory: give fewer --workers, or 0"
        ) from None


def _chunks(rows: Rows) -> Iterator[list[CheckedRow]]:
    chunk: list[CheckedRow] = []
    size = 0
    for row in rows:
        chunk.append(row)
        size += _size(row[1])
        if len(chunk) == CHUNK_ROWS or size > CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _size(cells: Any) -> int:
    """About how many bytes the cells hold."""
    if isinstance(cells, bytes | str):
        return len(cells)
    if isinstance(cells, dict):
        return sum(map(_size, cells.values()))
    return sum(map(_size, cells)) if isinstance(cells, list) else 0


def _convert(rules: Rules, rows: Sequence[CheckedRow]) -> list[Converted]:
    found = []
    for row, cells in rows:
        read = read_product(cells, rules)
        if isinstance(read, BadRecord):
            found.append(Converted(row, read, b""))
        else:
            found.append(Converted(row, read.without_images(), pack_product(read.product)))
    return found


def _begin() -> None:
    """Readies a worker: an interrupt is its parent's to handle, and it does not outlive a parent that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)

"""The products of a catalogue: read once, compared with one another, and written part by part."""

from array import array
from collections.abc import Iterator, MutableSequence, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from maxsearch.data.catalogue import PRODUCTS_FILE
from maxsearch.data.dataset import Records, Shard
from maxsearch.data.records import Product, pack_product, unpack_product
from maxsearch.data.shards import ShardWriter
from maxsearch.data.tables.files import Table
from maxsearch.data.tables.formats import BadRecord
from maxsearch.data.tables.parts import table_at
from maxsearch.data.tables.read import read_rows, row_count
from maxsearch.prepare.embedded.convert import converted
from maxsearch.prepare.embedded.letters import Letters
from maxsearch.prepare.embedded.tables import Tables
from maxsearch.prepare.options import PrepareOptions, part_folder
from maxsearch.prepare.rejections import Rejections
from maxsearch.prepare.splits import TRAIN, require_products
from maxsearch.prepare.steps import Rules, duplicate_id, variant_of
from maxsearch.progress import Progress

WHOLE, TEXT = pa.int64(), pa.string()


@dataclass
class WrittenProducts:
    """The products of one part.

    Attributes:
      account: what `ShardWriter.place` gives.
      attributes: names of their attributes.
      rows: the row of each in the products file, by position; kept for a screening only.
    """

    account: dict[str, Any] = field(default_factory=dict)
    attributes: set[str] = field(default_factory=set)
    rows: MutableSequence[int] = field(default_factory=lambda: array("q"))


def write_products(
    options: PrepareOptions,
    rules: Rules,
    tables: Tables,
    scratch: Path,
    draft: Path,
    rejections: Rejections,
    progress: Progress | None,
) -> dict[str, WrittenProducts]:
    """Writes the product shards of every part.

    Makes the tables `products` (n, line, id, variant, twin, title, texts), with what each usable row gives, and
    `catalogue` (n, id, part, position), with those that are kept.

    Raises:
      UsageError, MaxsearchError: the file cannot be read, too many rows are rejected, or a part gets no product.
    """
    path = table_at(options.products)
    letters = Letters(tables, "product_letters")
    drafted = ShardWriter(scratch, "products", options.shard_records)
    rows, attributes = _read(path, rules, options.workers, tables, letters, drafted, progress)
    _compare(tables)
    again = _reject_repeats(path, tables, letters)
    letters.deliver(rejections, PRODUCTS_FILE, path)
    kept = tables.value("SELECT count(*) FROM products") - again
    rejections.check(PRODUCTS_FILE, path, rows, kept=kept)
    if again or options.splits is not None or tables.value("SELECT count(*) FROM twins"):
        return _rewrite(options, tables, drafted.finish(), scratch, draft, progress)
    found = WrittenProducts(drafted.place(draft), attributes)
    for _ in _catalogue(options, tables, found.rows):
        pass
    return {TRAIN: found}


def _read(
    path: Table,
    rules: Rules,
    workers: int | None,
    tables: Tables,
    letters: Letters,
    drafted: ShardWriter,
    progress: Progress | None,
) -> tuple[int, set[str]]:
    """One pass over the file: the number of rows, and the attributes' names."""
    known = tables.create(
        "products", n=WHOLE, line=WHOLE, id=TEXT, variant=TEXT, twin=TEXT, title=TEXT, texts=pa.list_(TEXT)
    )
    records = converted(read_rows(path, what=PRODUCTS_FILE), rules, workers)
    if progress is not None:
        records = progress.track(records, "Preparing products", total=row_count(path))
    attributes: set[str] = set()
    n = -1
    for n, (row, read, packed) in enumerate(records):
        if isinstance(read, BadRecord):
            letters.add(n, row, read)
            continue
        letters.add_images(n, row, read.lost)
        product = read.product
        known.add(n, row, product.product_id, product.variant, read.twin, product.title, list(product.texts))
        attributes.update(product.attributes)
        drafted.write(packed)
    known.flush()
    return n + 1, attributes


def _compare(tables: Tables) -> None:
    """Makes the tables `firsts`, of ids that come more than once, and `twins`, of products that are alike."""
    tables.derive(
        "firsts",
        "SELECT id, min(n) AS n, arg_min(line, n) AS line FROM products GROUP BY id HAVING count(*) > 1",
    )
    tables.derive(
        "twins",
        "SELECT twin, count(*) AS twins FROM products p LEFT JOIN firsts f ON p.id = f.id "
        "WHERE twin <> '' AND (f.n IS NULL OR f.n = p.n) GROUP BY twin HAVING count(*) > 1",
    )


def _reject_repeats(path: Table, tables: Tables, letters: Letters) -> int:
    repeats = tables.rows(
        "SELECT p.n, p.line, p.id, f.line FROM products p JOIN firsts f ON p.id = f.id WHERE p.n > f.n ORDER BY p.n"
    )
    count = 0
    for n, row, product_id, first in repeats:
        letters.add(n, row, duplicate_id(product_id, path.said(first)))
        count += 1
    return count


def _catalogue(options: PrepareOptions, tables: Tables, rows: MutableSequence[int]) -> Iterator[tuple[str, str] | None]:
    """Decides on every usable product, in order: its (part, variant), or None for one that is left out."""
    keep = tables.create("catalogue", n=WHOLE, id=TEXT, part=TEXT, position=WHOLE)
    positions: dict[str, int] = {}
    decisions = tables.rows(
        "SELECT p.n, p.line, p.id, p.variant, p.twin, coalesce(t.twins, 0), f.n IS NOT NULL AND p.n > f.n "
        "FROM products p LEFT JOIN firsts f ON p.id = f.id LEFT JOIN twins t ON p.twin = t.twin ORDER BY p.n"
    )
    for n, row, product_id, own, twin, twins, again in decisions:
        if again:
            yield None
            continue
        variant = variant_of(own, twin, twins)
        part = TRAIN if options.splits is None else options.splits.of_product(product_id, variant)
        position = positions.get(part, 0)
        positions[part] = position + 1
        keep.add(n, product_id, part, position)
        if options.screening is not None and part == TRAIN:
            rows.append(row)
        yield part, variant
    keep.flush()


def _rewrite(
    options: PrepareOptions,
    tables: Tables,
    shards: Sequence[Shard],
    scratch: Path,
    draft: Path,
    progress: Progress | None,
) -> dict[str, WrittenProducts]:
    """Deals the drafted records out to the parts."""
    parts = (TRAIN, *(options.splits.shares if options.splits is not None else ()))
    found = {part: WrittenProducts() for part in parts}
    writers = {part: ShardWriter(scratch, f"{part}-products", options.shard_records) for part in parts}
    records: Iterator[Product] = iter(Records(shards, unpack_product))
    if progress is not None:
        records = progress.track(records, "Sorting products", total=sum(shard.take for shard in shards))
    for product, decision in zip(records, _catalogue(options, tables, found[TRAIN].rows), strict=True):
        if decision is None:
            continue
        part, variant = decision
        writers[part].write(pack_product(replace(product, variant=variant)))
        found[part].attributes.update(product.attributes)
    for part, writer in writers.items():
        folder = part_folder(draft, part, options)
        folder.mkdir(exist_ok=True)
        found[part].account = writer.place(folder, "products")
        require_products(part, found[part].account["count"])
    for shard in shards:
        Path(shard.filename).unlink()
    return found

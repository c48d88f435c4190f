"""The interactions of a catalogue: joined with its products, summed, and written part by part."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa

from maxsearch.data.catalogue import INTERACTIONS_FILE
from maxsearch.data.keywords import normalized
from maxsearch.data.records import Interaction, pack_interaction
from maxsearch.data.shards import write_shards
from maxsearch.data.tables.formats import BadRecord
from maxsearch.data.tables.parts import table_at
from maxsearch.data.tables.read import read_rows, row_count
from maxsearch.prepare.embedded.letters import Letters
from maxsearch.prepare.embedded.tables import Tables
from maxsearch.prepare.options import PrepareOptions, part_folder
from maxsearch.prepare.rejections import Rejections
from maxsearch.prepare.splits import TRAIN, require_interactions
from maxsearch.prepare.steps import Rules, infinite_total, read_click, unknown_product
from maxsearch.prepare.totals import ExactSum, infinite_weights
from maxsearch.progress import Progress

WHOLE, TEXT = pa.int64(), pa.string()


@dataclass
class WrittenClicks:
    """The interactions of one part.

    Attributes:
      account: what `write_shards` gives.
      queries: distinct queries.
      total: the sum of the weights.
    """

    account: dict[str, Any] = field(default_factory=dict)
    queries: int = 0
    total: ExactSum = field(default_factory=ExactSum)


def write_clicks(
    options: PrepareOptions,
    rules: Rules,
    tables: Tables,
    draft: Path,
    rejections: Rejections,
    progress: Progress | None,
) -> dict[str, WrittenClicks]:
    """Writes the interaction shards of every part; those of a held-out part are with its own products.

    Makes the table `pairs` (query, plain, id, home, position, part, first, weight), one row for each query and product:
    plain is the query but for case, width and spaces, home the product's part, position its place there, part the
    pair's own part, and first says which row came first.

    Raises:
      UsageError, MaxsearchError: the file cannot be read, too many rows are rejected, or a part gets no interaction.
    """
    path = table_at(options.interactions)
    letters = Letters(tables, "click_letters")
    rows = _read(options, rules, tables, letters, progress)
    unknown = tables.rows(
        "SELECT n, line, c.id FROM clicks c WHERE NOT EXISTS (SELECT 1 FROM catalogue k WHERE k.id = c.id) ORDER BY n"
    )
    for n, row, product_id in unknown:
        letters.add(n, row, unknown_product(product_id))
    kept = _add_up(options, tables, letters, progress)
    tables.drop("clicks")
    letters.deliver(rejections, INTERACTIONS_FILE, path)
    rejections.check(INTERACTIONS_FILE, path, rows, kept=kept)
    parts = (TRAIN, *(options.splits.shares if options.splits is not None else ()))
    return {part: _write(part, options, tables, part_folder(draft, part, options)) for part in parts}


def _read(options: PrepareOptions, rules: Rules, tables: Tables, letters: Letters, progress: Progress | None) -> int:
    """One pass over the file into the table `clicks`: the number of rows."""
    path = table_at(options.interactions)
    clicks = tables.create("clicks", n=WHOLE, line=WHOLE, query=TEXT, id=TEXT, weight=pa.float64())
    records = read_rows(path, what=INTERACTIONS_FILE)
    if progress is not None:
        records = progress.track(records, "Preparing interactions", total=row_count(path))
    n = -1
    for n, (row, cells) in enumerate(records):
        click = read_click(cells, rules)
        if isinstance(click, BadRecord):
            letters.add(n, row, click)
        else:
            clicks.add(n, row, click.query, click.product_id, click.weight)
    clicks.flush()
    return n + 1


def _add_up(options: PrepareOptions, tables: Tables, letters: Letters, progress: Progress | None) -> int:
    """Fills `pairs`: the number of them."""
    number = pa.float64()
    pairs = tables.create(
        "pairs", query=TEXT, plain=TEXT, id=TEXT, home=TEXT, position=WHOLE, part=TEXT, first=WHOLE, weight=number
    )
    known = tables.rows(
        "SELECT c.query, k.id, k.part, k.position, c.n, c.line, c.weight "
        "FROM clicks c JOIN catalogue k ON c.id = k.id ORDER BY c.query, c.id, c.n"
    )
    if progress is not None:
        known = progress.track(known, "Adding up interactions", total=tables.value("SELECT count(*) FROM clicks"))
    plain_of = lru_cache(maxsize=1024)(normalized)
    count = 0
    for (query, product_id, home, position), rows in groupby(known, key=itemgetter(0, 1, 2, 3)):
        total, first = ExactSum(), -1
        for *_, n, row, weight in rows:
            first = n if first < 0 else first
            try:
                total.add(weight)
            except OverflowError:
                letters.add(n, row, infinite_total())
        part = TRAIN if options.splits is None else options.splits.of_pair(query, product_id, home)
        pairs.add(query, plain_of(query), product_id, home, position, part, first, total.value)
        count += 1
    pairs.flush()
    return count


def _write(part: str, options: PrepareOptions, tables: Tables, folder: Path) -> WrittenClicks:
    found = WrittenClicks()

    def records() -> Iterator[bytes]:
        chosen = "SELECT query, position, weight FROM pairs WHERE part = ? AND home = ? ORDER BY first"
        for query, position, weight in tables.rows(chosen, part, part):
            try:
                found.total.add(weight)
            except OverflowError:
                raise infinite_weights(table_at(options.interactions)) from None
            yield pack_interaction(Interaction(query, position, weight))

    found.account = write_shards(folder, "interactions", records(), options.shard_records)
    require_interactions(part, found.account["count"])
    found.queries = tables.value("SELECT count(DISTINCT query) FROM pairs WHERE part = ? AND home = ?", part, part)
    return found

"""What the workers have left, judged by the process that started them, and what is left to one process to write."""

import math
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from maxsearch.data.catalogue import INTERACTIONS_FILE, PRODUCTS_FILE
from maxsearch.data.keywords import Lexicon
from maxsearch.data.product_keywords import write_keywords
from maxsearch.data.tables.files import Table
from maxsearch.data.tables.parts import Parts, table_at
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.prepare.beam import clicks, products
from maxsearch.prepare.beam.judged import write_held_out
from maxsearch.prepare.beam.letters import read_letters
from maxsearch.prepare.beam.sinks import read_accounts
from maxsearch.prepare.beam.words import read_keywords
from maxsearch.prepare.manifest import NO_KEYWORDS, Contents
from maxsearch.prepare.options import PrepareOptions, part_folder
from maxsearch.prepare.rejections import Rejections
from maxsearch.prepare.splits import TRAIN, require_interactions, require_products
from maxsearch.prepare.store import Store
from maxsearch.prepare.totals import infinite_weights


def finished(options: PrepareOptions, draft: Path, store: Store, rejections: Rejections) -> dict[str, Contents]:
    """Tells the rejected rows, and writes keywords and judgments.

    Args:
      options: checked ones.
      draft: the folder for these files.
      store: where the workers have written.
      rejections: takes the rejected rows.

    Raises:
      UsageError, MaxsearchError: a table could not be read or is too bad, or the workers wrote elsewhere.
    """
    accounts = read_accounts(store)
    if not accounts:
        raise MaxsearchError(
            f"nothing of what the Beam workers wrote is at {store.place}: give an --out that all of them see, a shared "
            "folder or the URL of an object store"
        )
    parts = (TRAIN, *(options.splits.shares if options.splits is not None else ()))
    catalogue, log = table_at(options.products), table_at(options.interactions)
    shards, interactions = _shards(accounts.get("products", [])), _shards(accounts.get("interactions", []))
    judge = partial(_judge, store, rejections, accounts)
    starts = judge(products.KIND, PRODUCTS_FILE, catalogue, "product_rows", len(shards))
    for part in parts:
        require_products(part, part in shards)
    judge(clicks.KIND, INTERACTIONS_FILE, log, "interaction_rows", accounts["pairs"][0])
    for part in parts:
        require_interactions(part, part in interactions)
        part_folder(draft, part, options).mkdir(exist_ok=True)
    keywords = NO_KEYWORDS
    if options.keywords:
        folder, lexicon = part_folder(draft, TRAIN, options), Lexicon(tuple(accounts["keywords"][0]))
        keywords = write_keywords(folder, lexicon, shards[TRAIN]["count"], read_keywords(store))
    queries, weights = dict(accounts["queries"]), dict(accounts["weights"])
    if math.inf in weights.values():
        raise infinite_weights(log)
    rows = [starts[number] + row for _, (number, _, row) in accounts.get("screened_rows", [])]
    judged = {part: write_held_out(store, part, part_folder(draft, part, options)) for part in parts if part != TRAIN}
    return {
        part: Contents(
            products=shards[part],
            interactions=interactions[part],
            queries=queries[part],
            total_weight=weights[part],
            keywords=keywords if part == TRAIN else NO_KEYWORDS,
            attributes=[name for owner, name in accounts.get("attributes", []) if owner == part],
            rows=rows if part == TRAIN else (),
            more={} if part == TRAIN else {"judgments": judged[part]},
        )
        for part in parts
    }


def _shards(found: list[list[Any]]) -> dict[str, dict[str, Any]]:
    """The manifest's account of shards by part, as `write_shards` gives it."""
    accounts: dict[str, dict[str, Any]] = {}
    for part, _, name, records, size, digest in found:
        account = accounts.setdefault(part, {"count": 0, "bytes": 0, "shards": []})
        account["count"] += records
        account["bytes"] += size
        account["shards"].append({"name": name, "records": records, "bytes": size, "sha256": digest})
    return accounts


def _judge(
    store: Store,
    rejections: Rejections,
    accounts: dict[str, list[Any]],
    kind: int,
    what: str,
    table: Table,
    counted: str,
    kept: int,
) -> list[int]:
    """Writes a table's letters down, and ends the run where it could not be read or is too bad.

    Returns:
      the rows before each of its files.
    """
    rows = [count for _, count in accounts[counted]]
    if isinstance(table, Parts):
        table.counted(rows)
    starts = list(accumulate(rows, initial=0))
    for (part, _, row), is_picture, bad in read_letters(store, kind):
        if is_picture:
            rejections.add_image(table, starts[part] + row, bad)
        else:
            rejections.add(what, table, starts[part] + row, bad)
    for failed, _, code, sentence in accounts["failures"][0]:
        if failed == kind:
            raise (UsageError if code == UsageError.exit_code else MaxsearchError)(sentence)
    rejections.check(what, table, sum(rows), kept)
    return starts

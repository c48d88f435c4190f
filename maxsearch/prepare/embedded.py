"""The runner without an engine: one process that reads, joins and writes."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from maxsearch.data.catalogue import INTERACTIONS_FILE, PRODUCTS_FILE, read_products
from maxsearch.data.keywords import KEYWORDS
from maxsearch.data.product_keywords import TABLE, KeywordCollector
from maxsearch.data.records import Interaction, pack_interaction, pack_product
from maxsearch.data.shards import write_shards
from maxsearch.data.table_files import Table
from maxsearch.data.table_formats import BadRecord
from maxsearch.data.table_parts import table_at
from maxsearch.data.tables import read_rows, row_count
from maxsearch.files import sha256_of
from maxsearch.prepare.manifest import Contents
from maxsearch.prepare.options import PrepareOptions
from maxsearch.prepare.rejections import Rejections
from maxsearch.prepare.splits import TRAIN
from maxsearch.prepare.steps import Rules, infinite_total, read_click, unknown_product
from maxsearch.prepare.totals import ExactSum
from maxsearch.progress import Progress

T = TypeVar("T")


def run(options: PrepareOptions, draft: Path, rejections: Rejections, progress: Progress | None) -> dict[str, Contents]:
    """Writes everything but the rejections and the manifest.

    Args:
      options: checked ones.
      draft: the folder to fill.
      rejections: takes the rejected rows.
      progress: where to report.

    Returns:
      What each part's folder now holds; without splits there is one, "train".

    Raises:
      UsageError, MaxsearchError: as `prepare`.
    """
    positions: dict[str, int] = {}
    attributes: set[str] = set()
    rows: list[int] = []
    words = KeywordCollector() if options.keywords else None
    products = write_shards(
        draft,
        "products",
        _products(options, positions, rows, attributes, words, rejections, progress),
        options.shard_records,
    )
    weights = _sum_clicks(options, positions, rejections, progress)
    interactions = write_shards(
        draft,
        "interactions",
        (pack_interaction(Interaction(query, product, total.value)) for (query, product), total in weights.items()),
        options.shard_records,
    )
    keywords = _write_keywords(draft, words, weights, options.keywords)
    contents = Contents(
        products=products,
        interactions=interactions,
        queries=len({query for query, _ in weights}),
        total_weight=ExactSum(total.value for total in weights.values()).value,
        keywords=keywords,
        attributes=sorted(attributes),
        rows=rows,
    )
    return {TRAIN: contents}


def _write_keywords(
    draft: Path, words: KeywordCollector | None, weights: Collection[tuple[str, int]], size: int
) -> dict[str, Any]:
    if words is None:
        return {"count": 0, "files": []}
    lexicon = words.write(draft, weights, size)
    lexicon.save(draft / KEYWORDS)
    paths = (draft / KEYWORDS, draft / TABLE)
    files = [{"name": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in paths]
    return {"count": len(lexicon), "files": files}


def _products(
    options: PrepareOptions,
    positions: dict[str, int],
    rows_of: list[int],
    attributes: set[str],
    words: KeywordCollector | None,
    rejections: Rejections,
    progress: Progress | None,
) -> Iterator[bytes]:
    """Yields the packed products, and fills in their positions and rows, the attributes' names and the words."""
    path = table_at(options.products)
    records = read_products(
        path,
        columns=options.columns,
        image_dir=options.image_dir,
        edge=options.image_edge,
        lost_image=partial(rejections.add_image, path),
    )
    rows = 0
    for row, product in _tracked(records, "Preparing products", path, progress):
        rows += 1
        if isinstance(product, BadRecord):
            rejections.add(PRODUCTS_FILE, path, row, product)
        else:
            positions[product.product_id] = len(positions)
            rows_of.append(row)
            attributes.update(product.attributes)
            if words is not None:
                words.add_product(product.title, product.texts)
            yield pack_product(product)
    rejections.check(PRODUCTS_FILE, path, rows, kept=len(positions))


def _sum_clicks(
    options: PrepareOptions, positions: Mapping[str, int], rejections: Rejections, progress: Progress | None
) -> dict[tuple[str, int], ExactSum]:
    """The weight of each (query, product position), in the order of their first rows."""
    path = table_at(options.interactions)
    rules = Rules.of(options)
    totals: dict[tuple[str, int], ExactSum] = {}
    rows = 0
    for row, cells in _tracked(read_rows(path, what=INTERACTIONS_FILE), "Preparing interactions", path, progress):
        rows += 1
        click = read_click(cells, rules)
        if isinstance(click, BadRecord):
            rejections.add(INTERACTIONS_FILE, path, row, click)
        elif click.product_id not in positions:
            rejections.add(INTERACTIONS_FILE, path, row, unknown_product(click.product_id))
        else:
            total = totals.setdefault((click.query, positions[click.product_id]), ExactSum())
            try:
                total.add(click.weight)
            except OverflowError:
                rejections.add(INTERACTIONS_FILE, path, row, infinite_total())
    rejections.check(INTERACTIONS_FILE, path, rows, kept=len(totals))
    return totals


def _tracked(items: Iterable[T], description: str, path: Table, progress: Progress | None) -> Iterable[T]:
    return items if progress is None else progress.track(items, description, total=row_count(path))

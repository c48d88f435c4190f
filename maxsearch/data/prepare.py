"""A catalogue and its interactions, checked and written as ArrayRecord shards."""

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO, TypeVar

from maxsearch.data.catalogue import (
    INTERACTION_FIELDS,
    INTERACTIONS_FILE,
    PRODUCT_FIELDS,
    PRODUCTS_FILE,
    click_from_row,
    interaction_columns,
    product_columns,
    read_products,
)
from maxsearch.data.dataset import KIND
from maxsearch.data.keywords import KEYWORDS
from maxsearch.data.layouts.layout import JUDGMENTS, Judged, write_judgments
from maxsearch.data.product_keywords import MAX_KEYWORDS, TABLE, KeywordCollector
from maxsearch.data.records import SCHEMA_VERSION, Interaction, pack_interaction, pack_product
from maxsearch.data.screening import SUSPECTS, Screening
from maxsearch.data.shards import write_shards
from maxsearch.data.table_files import Table
from maxsearch.data.table_formats import BadRecord
from maxsearch.data.table_parts import TableSource, table_at
from maxsearch.data.tables import Columns, read_rows, row_count, several, single, suggestion
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.files import directory_in_place, sha256_of, write_json
from maxsearch.manifest import MANIFEST, created_by
from maxsearch.progress import Progress

T = TypeVar("T")

REJECTED = "rejected.jsonl"
MAX_EDGE = 4096


@dataclass(frozen=True)
class PrepareOptions:
    """What to prepare, and how.

    Attributes:
      products: the products file, or what else `table_at` takes.
      interactions: the interactions file, likewise.
      out: the folder to write; an older prepared folder there is replaced.
      image_dir: folder of the pictures when the image column holds paths.
      columns: {field: column}; a field that is not mapped is read from the column of its own name. image and text may
        have several columns.
      image_edge: pictures are shrunk to fit a square of this many pixels.
      max_bad_fraction: with more than this fraction of either file's rows rejected, nothing is written.
      shard_records: records in one shard file.
      keywords: size of the vocabulary of keywords; 0 makes none.
      screening: how a trained model looks for pictures that do not fit; None for not at all.
      judgments: graded judgments to keep beside the shards; None for none.
    """

    products: TableSource
    interactions: TableSource
    out: Path
    image_dir: Path | None = None
    columns: Columns = field(default_factory=dict)
    image_edge: int = 224
    max_bad_fraction: float = 0.01
    shard_records: int = 8192
    keywords: int = 2048
    screening: Screening | None = None
    judgments: Callable[[], Iterable[Judged]] | None = None


def prepare(options: PrepareOptions, progress: Progress | None = None) -> dict[str, Any]:
    """Writes products, interactions, keywords, rejected rows and a manifest to `options.out`.

    The folder appears whole, with the manifest, or not at all; equal input gives equal bytes. Where too many rows are
    rejected they are left in OUT.rejected.jsonl, beside the folder.

    Returns:
      The manifest.

    Raises:
      UsageError: an option or a column cannot be used, or `out` holds other files.
      MaxsearchError: a file cannot be read or written, too many rows are rejected, or none is left.
    """
    out = options.out.resolve()
    _check_options(options)
    products, interactions = (
        table_at(options.products, PRODUCTS_FILE),
        table_at(options.interactions, INTERACTIONS_FILE),
    )
    options = replace(options, products=products, interactions=interactions)
    _check_columns(options)
    if options.screening is not None:
        options.screening.check(options.products, options.columns)
    _check_replaceable(out)
    aside = out.with_name(f"{out.name}.{REJECTED}")
    try:
        with directory_in_place(out) as draft:
            with (draft / REJECTED).open("w", encoding="utf-8", newline="\n") as stream:
                manifest = _write_records(
                    options, draft, _Rejections(stream, aside, options.max_bad_fraction), progress
                )
                stream.flush()
                os.fsync(stream.fileno())
            write_json(draft / MANIFEST, manifest)
        aside.unlink(missing_ok=True)  # an earlier run on worse files may have left it
    except OSError as error:
        raise MaxsearchError(
            f"cannot write {error.filename or out} ({error.strerror or error}): make room or choose another --out"
        ) from None
    return manifest


def _check_options(options: PrepareOptions) -> None:
    if not 1 <= options.image_edge <= MAX_EDGE:
        raise UsageError(f"--image-edge {options.image_edge} is out of range: give 1 to {MAX_EDGE} pixels")
    if not 0 <= options.max_bad_fraction <= 1:
        raise UsageError(f"--max-bad-fraction {options.max_bad_fraction} is out of range: give 0 to 1")
    if options.shard_records < 1:
        raise UsageError(f"--shard-records {options.shard_records} is out of range: give 1 or more")
    if not 0 <= options.keywords <= MAX_KEYWORDS:
        raise UsageError(f"--keywords {options.keywords} is out of range: give 0 to {MAX_KEYWORDS}")
    if options.image_dir is not None and not options.image_dir.is_dir():
        raise UsageError(f"--image-dir {options.image_dir} is not a folder: give the folder of the pictures")


def _check_columns(options: PrepareOptions) -> None:
    """Meets a wrong mapping before any record is read."""
    fields = dict.fromkeys(PRODUCT_FIELDS + INTERACTION_FIELDS)
    for name in options.columns:
        if name not in fields:
            given = several(options.columns, name)[0]
            raise UsageError(f"--map {name}={given} names no known field: {suggestion(name, fields)}")
    found = (
        product_columns(options.products, options.columns),
        interaction_columns(options.interactions, options.columns),
    )
    column = single(options.columns, "product_id") or "product_id"
    if all(part["product_id"] != column for part in found):
        raise UsageError(
            f"--map product_id={column} names a column that neither {options.products} nor {options.interactions} has: "
            "name one of theirs"
        )


def _check_replaceable(out: Path) -> None:
    """Refuses to replace a folder that holds anything but prepared data."""
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"--out {out} is a file: give a folder")
    names = {path.name for path in out.iterdir()}
    try:
        manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        parts = (manifest["products"], manifest["interactions"]) if manifest["kind"] == KIND else ()
        own = {MANIFEST, REJECTED} | {shard["name"] for part in parts for shard in part["shards"]} if parts else set()
        own |= {SUSPECTS, JUDGMENTS} if parts else set()
        own |= {file["name"] for file in manifest.get("keywords", {}).get("files", ())} if parts else set()
    except (OSError, ValueError, KeyError, TypeError):
        own = set()
    if names - own:
        raise UsageError(
            f"--out {out} holds files that maxsearch prepare did not write, such as {min(names - own)}: "
            "give a new or empty folder, or one of prepared data"
        )


class _Rejections:
    """The dead letters: each rejected row in a file, with counts by reason."""

    def __init__(self, stream: TextIO, aside: Path, limit: float) -> None:
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

    def _write(self, path: Table, row: int, code: str, reason: str) -> None:
        file, number = path.place(row)
        letter = {"file": file, "row": number, "code": code, "reason": reason}
        self._stream.write(json.dumps(letter, ensure_ascii=False) + "\n")

    def check(self, what: str, path: Table, rows: int, kept: int) -> None:
        """Ends the run when too many of a file's rows were rejected, or none is left."""
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


def _write_records(
    options: PrepareOptions, draft: Path, rejections: _Rejections, progress: Progress | None
) -> dict[str, Any]:
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
        (pack_interaction(Interaction(query, product, weight)) for (query, product), weight in weights.items()),
        options.shard_records,
    )
    keywords = _write_keywords(draft, words, weights, options.keywords)
    screened: dict[str, Any] = {}
    if options.screening is not None:
        products, summary = options.screening.apply(draft, products, rows, options.shard_records, progress)
        screened = {"screening": summary}
    if options.judgments is not None:
        screened["judgments"] = write_judgments(draft / JUDGMENTS, options.judgments())
    files = [*products["shards"], *interactions["shards"], *keywords["files"]]
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "created_by": created_by(),
        "products": products,
        "interactions": interactions
        | {"queries": len({query for query, _ in weights}), "total_weight": math.fsum(weights.values())},
        "keywords": keywords,
        "rejected": rejections.summary(),
        "image_edge": options.image_edge,
        "attributes": sorted(attributes),
        "fingerprint": hashlib.sha256("\n".join(file["sha256"] for file in files).encode()).hexdigest(),
        **screened,
    }


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
    rejections: _Rejections,
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
    options: PrepareOptions, positions: Mapping[str, int], rejections: _Rejections, progress: Progress | None
) -> dict[tuple[str, int], float]:
    """The weight of each (query, product position), in the order of their first rows."""
    path = table_at(options.interactions)
    columns = interaction_columns(path, options.columns)
    weights: dict[tuple[str, int], float] = {}
    rows = 0
    for row, cells in _tracked(read_rows(path, what=INTERACTIONS_FILE), "Preparing interactions", path, progress):
        rows += 1
        try:
            if isinstance(cells, BadRecord):
                raise cells
            query, product_id, weight = click_from_row(cells, columns)
            if product_id not in positions:
                raise BadRecord("unknown_product", f"names the product_id {product_id!r}, which no usable product has")
            key = (query, positions[product_id])
            total = weights.get(key, 0.0) + weight
            if math.isinf(total):
                raise BadRecord("bad_weight", "makes the summed weight of its query and product infinite")
            weights[key] = total
        except BadRecord as bad:
            rejections.add(INTERACTIONS_FILE, path, row, bad)
    rejections.check(INTERACTIONS_FILE, path, rows, kept=len(weights))
    return weights


def _tracked(items: Iterable[T], description: str, path: Table, progress: Progress | None) -> Iterable[T]:
    return items if progress is None else progress.track(items, description, total=row_count(path))

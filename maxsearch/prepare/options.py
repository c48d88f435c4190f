"""What to prepare, and how: the options of every runner, checked before any record is read."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from maxsearch.data.catalogue import (
    INTERACTION_FIELDS,
    INTERACTIONS_FILE,
    PRODUCT_FIELDS,
    PRODUCTS_FILE,
    interaction_columns,
    product_columns,
)
from maxsearch.data.layouts.layout import Judged
from maxsearch.data.product_keywords import MAX_KEYWORDS
from maxsearch.data.screening import Screening
from maxsearch.data.tables.parts import TableSource, table_at
from maxsearch.data.tables.read import Columns, several, single, suggestion
from maxsearch.errors import UsageError
from maxsearch.prepare.splits import Splits
from maxsearch.prepare.tokens import Tokenization

MAX_EDGE = 4096
TRAITS = ("image", "title")


@dataclass(frozen=True)
class PrepareOptions:
    """What to prepare, and how.

    Attributes:
      products: the products file, or what else `table_at` takes.
      interactions: the interactions file, likewise.
      out: the folder to write; an older prepared folder there is replaced. Or an fsspec URL, where nothing is.
      image_dir: folder of the pictures when the image column holds paths.
      columns: {field: column}; a field that is not mapped is read from the column of its own name. image and text may
        have several columns.
      image_edge: pictures are shrunk to fit a square of this many pixels.
      max_bad_fraction: with more than this fraction of either file's rows rejected, nothing is written.
      shard_records: records in one shard file.
      keywords: size of the vocabulary of keywords; 0 makes none.
      screening: how a trained model looks for pictures that do not fit; None for not at all.
      tokenizer: what the texts of the training part are tokenised with, once for all; None for not at all.
      judgments: graded judgments to keep beside the shards; None for none.
      position_power: how steeply attention falls with the position, where columns maps one; see `steps.debiased`.
      group_duplicates: traits ("image", "title") by which products without a variant become variants of one another
        when they share all of them; see `steps.twin_key`.
      splits: what is held out from training; None for nothing.
      workers: processes that convert products; 0 for none, only threads of this process; None for one per core where
        there are many rows. The result does not depend on it.
    """

    products: TableSource
    interactions: TableSource
    out: Path | str
    image_dir: Path | None = None
    columns: Columns = field(default_factory=dict)
    image_edge: int = 224
    max_bad_fraction: float = 0.01
    shard_records: int = 8192
    keywords: int = 2048
    screening: Screening | None = None
    tokenizer: Tokenization | None = None
    judgments: Callable[[], Iterable[Judged]] | None = None
    position_power: float = 1.0
    group_duplicates: tuple[str, ...] = ()
    splits: Splits | None = None
    workers: int | None = 0


def checked(options: PrepareOptions) -> PrepareOptions:
    """The options with both files as tables, when they can be used.

    Raises:
      UsageError: a value is out of range, a file is absent, or a column is.
      MaxsearchError: a file cannot be read.
    """
    _check_ranges(options)
    options = replace(
        options,
        products=table_at(options.products, PRODUCTS_FILE),
        interactions=table_at(options.interactions, INTERACTIONS_FILE),
    )
    _check_columns(options)
    if options.screening is not None:
        options.screening.check(options.products, options.columns)
    if options.tokenizer is not None:
        options.tokenizer.check()
    return options


def part_folder(draft: Path, part: str, options: PrepareOptions) -> Path:
    """The folder of a part's shards below the folder that is written; without splits, that itself."""
    return draft if options.splits is None else draft / part


def _check_ranges(options: PrepareOptions) -> None:
    if not 1 <= options.image_edge <= MAX_EDGE:
        raise UsageError(f"--image-edge {options.image_edge} is out of range: give 1 to {MAX_EDGE} pixels")
    if not 0 <= options.max_bad_fraction <= 1:
        raise UsageError(f"--max-bad-fraction {options.max_bad_fraction} is out of range: give 0 to 1")
    if options.shard_records < 1:
        raise UsageError(f"--shard-records {options.shard_records} is out of range: give 1 or more")
    if not 0 <= options.keywords <= MAX_KEYWORDS:
        raise UsageError(f"--keywords {options.keywords} is out of range: give 0 to {MAX_KEYWORDS}")
    if not (math.isfinite(options.position_power) and options.position_power >= 0):
        raise UsageError(f"--position-power {options.position_power:g} is out of range: give 0 or more, such as 1")
    if options.workers is not None and options.workers < 0:
        raise UsageError(f"--workers {options.workers} is out of range: give 0 or more")
    for trait in options.group_duplicates:
        if trait not in TRAITS:
            raise UsageError(f"--group-duplicates {trait} is no known trait: {suggestion(trait, TRAITS)}")
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

"""Small pictures of the products that a report names, read from the evaluated catalogue in one pass."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from maxsearch.data.catalogue import PRODUCTS_FILE, product_columns, product_from_row
from maxsearch.data.images import fit_image
from maxsearch.data.tables.formats import BadRecord
from maxsearch.data.tables.parts import table_at
from maxsearch.data.tables.read import Columns, cell_text, read_rows, single
from maxsearch.errors import MaxsearchError
from maxsearch.html.markup import THUMB_EDGE, THUMB_QUALITY


@dataclass(frozen=True)
class PictureSource:
    """Where pictures come from: a products file in any format that `prepare` reads, its columns, its image folder."""

    path: Path
    columns: Columns = field(default_factory=dict)
    image_dir: Path | None = None


@dataclass
class Pictures:
    """Encoded thumbnails by product.

    Attributes:
      by_id: a JPEG per product that has a usable picture.
      known: products that were found in the file, with a picture or without.
      absent: why there are none at all, in a sentence; empty when they were read.
    """

    by_id: dict[str, bytes] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)
    absent: str = ""


def read_pictures(source: PictureSource, wanted: Collection[str]) -> Pictures:
    """Reads the front pictures of some products, scaled down; rows of others are not decoded.

    Args:
      source: the catalogue.
      wanted: product identifiers.

    Raises:
      UsageError, MaxsearchError: the file cannot be read, or lacks a column.
    """
    found, left = Pictures(), set(wanted)
    path = table_at(source.path, PRODUCTS_FILE)
    columns = product_columns(path, source.columns)
    identifier = single(columns, "product_id")
    for _, cells in read_rows(path, what=PRODUCTS_FILE):
        if not left:
            break
        if isinstance(cells, BadRecord) or (name := _identifier(cells, identifier)) not in left:
            continue
        left.discard(name)
        found.known.add(name)
        try:
            product, _ = product_from_row(cells, columns, image_dir=source.image_dir, edge=2 * THUMB_EDGE)
            if product.image is not None:
                found.by_id[name] = fit_image(product.image, THUMB_EDGE, quality=THUMB_QUALITY)
        except BadRecord:
            continue
    if wanted and not found.known:
        raise MaxsearchError(
            f"the {PRODUCTS_FILE} {source.path} holds none of the {len(wanted)} products that the evaluations name, so "
            "it is another catalogue: give the evaluated one to --products"
        )
    return found


def _identifier(cells: Mapping[str, object], column: str | None) -> str:
    try:
        return cell_text(cells.get(column)) if column is not None else ""
    except BadRecord:
        return ""

"""The product that an explanation is of: by its id in a products file, or a picture of the user's own."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from maxsearch.data.catalogue import PRODUCTS_FILE, BadRecord, product_columns, product_from_row
from maxsearch.data.images import fit_image
from maxsearch.data.records import Product
from maxsearch.data.tables.parts import table_at
from maxsearch.data.tables.read import Columns, cell_text, read_rows, single
from maxsearch.errors import MaxsearchError, UsageError

COMPARED = 100_000  # ids that a wrong one is compared with


def find_products(
    path: Path, wanted: Sequence[str], *, columns: Columns, image_dir: Path | None, edge: int
) -> list[Product]:
    """Reads some products of a file; of the others not even the pictures are opened.

    Args:
      path: the file, in any form that `prepare` reads.
      wanted: product ids.
      columns: {field: column} of the user's mapping.
      image_dir: folder of the pictures when the image column holds paths.
      edge: pictures are shrunk to fit a square of this many pixels.

    Returns:
      The products in the order of `wanted`, each once.

    Raises:
      UsageError: the file has no such product.
      MaxsearchError: its row cannot be used.
    """
    table = table_at(path, PRODUCTS_FILE)
    found = product_columns(table, columns)
    column = single(found, "product_id")
    missing, ids = set(wanted), list[str]()
    products: dict[str, Product] = {}
    for row, cells in read_rows(table, what=PRODUCTS_FILE):
        if isinstance(cells, BadRecord) or column is None:
            continue
        product_id = cell_text(cells.get(column))
        if len(ids) < COMPARED:
            ids.append(product_id)
        if product_id not in missing:
            continue
        missing.discard(product_id)
        try:
            products[product_id], _ = product_from_row(cells, found, image_dir=image_dir, edge=edge)
        except BadRecord as bad:
            raise MaxsearchError(
                f"the product {product_id!r} in row {table.said(row)} {bad.reason}: "
                "mend the row, or name another product"
            ) from None
        if not missing:
            break
    for product_id in wanted:
        if product_id in missing:
            raise UsageError(f"--product {product_id!r}: {path} has no such product, {near(product_id, ids)}")
    return [products[product_id] for product_id in dict.fromkeys(wanted)]


def near(wanted: str, ids: Sequence[str]) -> str:
    """What may have been meant by an id that is not there."""
    close = difflib.get_close_matches(wanted, ids, n=3, cutoff=0.5) or ids[:3]
    return f"did you mean {' or '.join(map(repr, close))}?" if close else "it has no rows"


def product_of_image(path: Path, title: str, edge: int) -> Product:
    """A product made of a picture file and a title.

    Raises:
      UsageError: the file cannot be read.
      MaxsearchError: it is no picture that can be used.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"--image {path} cannot be read ({error.strerror or error}): give a JPEG, PNG or WebP file"
        ) from None
    try:
        return Product(path.name, " ".join(title.split()), (fit_image(data, edge),))
    except BadRecord as bad:
        raise MaxsearchError(f"--image {path} {bad.reason}: give a JPEG, PNG or WebP of a common size") from None

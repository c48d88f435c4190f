"""From a row of a user's table to a record: pure functions on one row, so that any engine can run them."""

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from maxsearch.data.images import fit_image
from maxsearch.data.pooled import in_order
from maxsearch.data.records import Product
from maxsearch.data.tables.formats import BadRecord, Rows, is_text
from maxsearch.data.tables.parts import TableSource, table_at
from maxsearch.data.tables.read import (
    Columns,
    cell_text,
    column_names,
    columns_until,
    read_rows,
    require_columns,
    several,
    single,
)
from maxsearch.errors import UsageError

__all__ = [
    "INTERACTION_FIELDS",
    "PRODUCT_FIELDS",
    "BadRecord",
    "click_from_row",
    "duplicate_id",
    "interaction_columns",
    "position_of",
    "product_columns",
    "product_from_row",
    "read_products",
]

CheckedRow = tuple[int, dict[str, Any] | BadRecord]
CheckedProduct = tuple[int, Product | BadRecord]

PRODUCT_FIELDS = ("product_id", "title", "image", "text", "variant")
INTERACTION_FIELDS = ("query", "product_id", "weight", "position")
PRODUCTS_FILE = "products file"
INTERACTIONS_FILE = "interactions file"
WHOLE_NUMBER = re.compile(r"[0-9]{1,15}(\.0+)?")
CHUNK = 16  # rows a thread takes at a time; they may hold large pictures


def product_columns(path: TableSource, columns: Columns) -> Columns:
    """Finds the column of each product field that the file has; image and text may have several.

    Args:
      path: the products file.
      columns: {field: column} of the user's mapping; fields of other files are ignored. A field that is not mapped is
        read from the column of its own name.

    Raises:
      UsageError: a mapped column, the product_id column, or both title and image are not in the file.
    """
    found = _find_columns(path, columns, PRODUCT_FIELDS, required=("product_id",), what=PRODUCTS_FILE)
    if "title" not in found and "image" not in found:
        raise UsageError(
            f"the {PRODUCTS_FILE} {path} has neither a column 'title' nor 'image': "
            "name one with --map title=COLUMN or --map image=COLUMN"
        )
    return found


def interaction_columns(path: TableSource, columns: Columns) -> dict[str, str]:
    """Finds the column of each interaction field that the file has; see `product_columns`.

    The position is read only when it is mapped: it changes weights.
    """
    fields = tuple(name for name in INTERACTION_FIELDS if name != "position" or name in columns)
    found = _find_columns(path, columns, fields, required=("query", "product_id"), what=INTERACTIONS_FILE)
    return {name: column for name in found if (column := single(found, name)) is not None}


def _find_columns(
    path: TableSource, columns: Columns, fields: tuple[str, ...], *, required: tuple[str, ...], what: str
) -> Columns:
    known = table_at(path, what).fields
    wanted = {name: columns.get(name, known.get(name, name)) for name in fields}
    must = {name: column for name, column in wanted.items() if name in columns or name in required}
    names = columns_until(path, [column for name in must for column in several(must, name)], what=what)
    if must["product_id"] not in names and "product_id" in names:
        # Both files have the field product_id; a mapping may have been meant for the other one.
        must["product_id"] = wanted["product_id"] = "product_id"
    require_columns(names, must, path, what)
    if column_names(path, what=what) is None:
        return wanted  # JSON lines: any later row may bring a further field
    return {name: column for name, column in wanted.items() if set(several(wanted, name)) <= set(names)}


def product_from_row(
    row: Mapping[str, Any], columns: Columns, *, image_dir: Path | None, edge: int
) -> tuple[Product, list[BadRecord]]:
    """Turns a row of the products file into a product; reads nothing but the pictures.

    Args:
      row: cells by column name. An image cell may hold a list of pictures.
      columns: the columns of each field, as `product_columns` gives them. All other columns become attributes.
      image_dir: folder of the pictures when an image column holds paths.
      edge: pictures are shrunk to fit a square of this many pixels.

    Returns:
      The product with the pictures that can be used, and what is wrong with each of the others.

    Raises:
      BadRecord: the row has no id, no content, or pictures of which none can be used.
      UsageError: an image column holds a path and there is no `image_dir`.
    """
    product_id = cell_text(_cell(row, columns, "product_id"))
    if not product_id:
        raise BadRecord("missing_id", "has no product_id")
    title = _words(_cell(row, columns, "title"))
    images: list[bytes] = []
    unusable: list[BadRecord] = []
    for cell in _image_cells(row, columns):
        try:
            picture = _picture(cell, image_dir)
            if picture is not None:
                images.append(fit_image(picture, edge))
        except BadRecord as bad:
            unusable.append(bad)
    if unusable and not images:
        raise unusable[0]
    if not title and not images:
        raise BadRecord("no_content", "has neither a title nor an image")
    texts = [_words(row.get(column)) for column in several(columns, "text")]
    while texts and not texts[-1]:
        texts.pop()
    used = {column for name in columns for column in several(columns, name)}
    product = Product(
        product_id=product_id,
        title=title,
        images=tuple(images),
        variant=cell_text(_cell(row, columns, "variant")),
        attributes={
            name: text for name, value in row.items() if name and name not in used and (text := _attribute(value))
        },
        texts=tuple(texts),
    )
    return product, unusable


def click_from_row(row: Mapping[str, Any], columns: Mapping[str, str]) -> tuple[str, str, float]:
    """Turns a row of the interactions file into (query, product_id, weight); the weight is 1 without a weight column.

    Raises:
      BadRecord: the query or the id is missing, or the weight is not a number above 0.
    """
    query = _words(row.get(columns["query"]))
    if not query:
        raise BadRecord("missing_query", "has no query")
    product_id = cell_text(row.get(columns["product_id"]))
    if not product_id:
        raise BadRecord("missing_id", "has no product_id")
    weighted = "weight" in columns and columns["weight"] in row
    return query, product_id, _weight(row[columns["weight"]]) if weighted else 1.0


def position_of(row: Mapping[str, Any], columns: Mapping[str, str]) -> int:
    """The position that the product of an interaction stood at, from 1.

    Raises:
      BadRecord: it is absent, or no whole number from 1.
    """
    text = cell_text(row.get(columns["position"]))
    if not (WHOLE_NUMBER.fullmatch(text) and int(text.partition(".")[0]) > 0):
        raise BadRecord("bad_position", f"has the position {text[:40]!r}, which is not a whole number from 1")
    return int(text.partition(".")[0])


def read_products(
    path: TableSource, *, columns: Columns, image_dir: Path | None, edge: int
) -> Iterator[CheckedProduct]:
    """Streams a products file.

    Args:
      path: the file, in any form that `table_at` takes.
      columns: {field: column} of the user's mapping; see `product_columns`.
      image_dir: folder of the pictures when the image column holds paths.
      edge: pictures are shrunk to fit a square of this many pixels.

    Yields:
      (row, product), or (row, BadRecord) for a row that cannot be used, such as one that repeats an id.

    Raises:
      UsageError, MaxsearchError: the file cannot be read, or lacks a column.
    """
    path = table_at(path, PRODUCTS_FILE)
    found = product_columns(path, columns)
    first_rows: dict[str, int] = {}
    convert = partial(_products_of, columns=found, image_dir=image_dir, edge=edge)
    threads = len(os.sched_getaffinity(0))  # they pay: pictures are read and decoded outside Python's lock
    with ThreadPoolExecutor(threads) as pool:
        for products in in_order(pool, convert, _chunks(read_rows(path, what=PRODUCTS_FILE)), 2 * threads):
            for row, product in products:
                if isinstance(product, BadRecord):
                    yield row, product
                    continue
                first = first_rows.setdefault(product.product_id, row)
                yield row, product if first == row else duplicate_id(product.product_id, path.said(first))


def duplicate_id(product_id: str, first: str) -> BadRecord:
    """The fault of a product whose id an earlier usable row has; `first` says which, as `Table.said` does."""
    return BadRecord("duplicate_id", f"repeats the product_id {product_id!r} of row {first}")


def _products_of(
    rows: Sequence[CheckedRow], *, columns: Columns, image_dir: Path | None, edge: int
) -> list[CheckedProduct]:
    products: list[CheckedProduct] = []
    for row, cells in rows:
        if isinstance(cells, BadRecord):
            products.append((row, cells))
            continue
        try:
            products.append((row, product_from_row(cells, columns, image_dir=image_dir, edge=edge)[0]))
        except BadRecord as bad:
            products.append((row, bad))
    return products


def _chunks(rows: Rows) -> Iterator[list[CheckedRow]]:
    while chunk := list(islice(rows, CHUNK)):
        yield chunk


def _cell(row: Mapping[str, Any], columns: Columns, field: str) -> Any:
    column = single(columns, field)
    return None if column is None else row.get(column)


def _image_cells(row: Mapping[str, Any], columns: Columns) -> Iterator[Any]:
    for column in several(columns, "image"):
        value = row.get(column)
        yield from value if isinstance(value, list) else [value]


def _words(value: Any) -> str:
    """Text with runs of white space, line breaks too, as one space; the texts of a list one after the other."""
    if isinstance(value, list):
        value = " ".join(map(cell_text, value))
        if not is_text([value]):
            raise BadRecord("bad_encoding", "holds text that is not UTF-8")
    return " ".join(cell_text(value).split())


def _attribute(value: Any) -> str:
    """A further column as text; empty for bytes, such as pictures that are not mapped."""
    if any(isinstance(part, bytes | dict) for part in (value if isinstance(value, list) else [value])):
        return ""
    return cell_text(value)


def _weight(value: Any) -> float:
    try:
        weight = float(cell_text(value))
    except ValueError:
        raise BadRecord("bad_weight", f"has the weight {cell_text(value)[:40]!r}, which is not a number") from None
    if not (math.isfinite(weight) and weight > 0):
        raise BadRecord("bad_weight", f"has the weight {weight:g}, which is not above 0 and finite")
    return weight


def _picture(value: Any, image_dir: Path | None) -> bytes | None:
    """The bytes of an image cell, which holds bytes, a path below `image_dir`, or {"bytes", "path"} of the two."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value or None
    name = cell_text(value)
    if not name:
        return None
    if image_dir is None:
        raise UsageError(f"the image column holds paths such as {name[:80]!r}: name their folder with --image-dir")
    if name.lower().startswith(("http://", "https://", "data:")):
        raise BadRecord("missing_image_file", f"has the image {name[:80]!r}, which is no path below the image folder")
    root = os.path.abspath(image_dir)  # noqa: PTH100 - lexical on purpose: links below the folder may lead elsewhere
    path = Path(os.path.normpath(Path(root) / name))
    if not path.is_relative_to(root):
        raise BadRecord("image_outside_folder", f"has the image {name[:80]!r}, which lies outside the image folder")
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        kind = error.strerror if isinstance(error, OSError) and error.strerror else "no valid path"
        raise BadRecord("missing_image_file", f"has the image {name[:80]!r}, which cannot be read ({kind})") from None

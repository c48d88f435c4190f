"""The products that an index is built from: a products file, or a prepared dataset."""

import sys
from collections.abc import Iterator
from pathlib import Path

from maxsearch.data.catalogue import BadRecord, read_products
from maxsearch.data.dataset import PreparedDataset
from maxsearch.data.records import Product
from maxsearch.data.tables.read import Columns
from maxsearch.errors import MaxsearchError, UsageError


def catalogue(
    *,
    products: Path | None,
    data: Path | None,
    columns: Columns,
    image_dir: Path | None,
    edge: int,
    max_bad_fraction: float,
) -> Iterator[Product]:
    """Streams the products of a file or of a prepared dataset.

    Args:
      products: a products file, in any format that `prepare` reads.
      data: a prepared dataset, in its place.
      columns: column per field (`--map`).
      image_dir: folder of the pictures when the image column holds paths.
      edge: longest side of a picture in pixels.
      max_bad_fraction: share of the file's rows that may be unusable.

    Raises:
      UsageError: not exactly one of `products` and `data` is given, or `max_bad_fraction` is no share.
      MaxsearchError: at the end of the file, when too many rows were unusable.
    """
    if (products is None) == (data is None):
        raise UsageError("give the catalogue with either --products or --data")
    if not 0 <= max_bad_fraction <= 1:
        raise UsageError(f"--max-bad-fraction {max_bad_fraction} is no share: give a number from 0 to 1")
    if products is not None:
        return _from_file(products, columns, image_dir, edge, max_bad_fraction)
    assert data is not None
    return iter(PreparedDataset.open(data).products)


def _from_file(
    path: Path, columns: Columns, image_dir: Path | None, edge: int, max_bad_fraction: float
) -> Iterator[Product]:
    total = bad = 0
    first = ""
    for row, record in read_products(path, columns=columns, image_dir=image_dir, edge=edge):
        total += 1
        if isinstance(record, BadRecord):
            bad += 1
            first = first or f"row {row} {record.reason}"
        else:
            yield record
    if bad > max_bad_fraction * total:
        raise MaxsearchError(
            f"{bad} of {total} rows of the products file {path} cannot be used (the first: {first}): "
            f"mend the file or raise --max-bad-fraction {max_bad_fraction:g}"
        )
    if bad:
        print(f"left out {bad} of {total} rows of {path} that cannot be used (the first: {first})", file=sys.stderr)

"""What a result list shows of each product, as one Parquet file in row order."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from maxsearch.data.records import Product

SCHEMA = pa.schema(
    [
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("variant", pa.string(), nullable=False),
        pa.field("attributes", pa.map_(pa.string(), pa.string()), nullable=False),
        pa.field("texts", pa.list_(pa.string()), nullable=False),
    ]
)


@dataclass(frozen=True)
class Item:
    """A product without its pictures."""

    product_id: str
    title: str
    variant: str
    attributes: dict[str, str]
    texts: tuple[str, ...] = ()


def items_table(products: Iterable[Product | Item]) -> pa.Table:
    """The items as a table of SCHEMA; images are left out."""
    rows = [
        {
            "product_id": product.product_id,
            "title": product.title,
            "variant": product.variant,
            "attributes": sorted(product.attributes.items()),
            "texts": list(product.texts),
        }
        for product in products
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def write_items(path: Path, tables: Iterable[pa.Table]) -> int:
    """Writes tables of SCHEMA, one after the other, as one Parquet file, and returns how many items they hold."""
    count = 0
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table)
            count += len(table)
    return count


class Items:
    """The items of an index, by row; rows become Python objects only when they are asked for.

    Attributes:
      table: a table of SCHEMA.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table.combine_chunks()  # Arrow joins chunks of strings anew each time rows are taken of them

    @classmethod
    def read(cls, path: Path) -> "Items":
        """Reads what `write_items` wrote.

        Raises:
          pa.ArrowException: the file is not Parquet, or has other columns.
        """
        return cls(pq.read_table(path, schema=SCHEMA))

    def __len__(self) -> int:
        return self.table.num_rows

    def __getitem__(self, row: int) -> Item:
        return self.take([row])[0]

    def take(self, rows: Sequence[int]) -> list[Item]:
        """The items at the given rows, in that order."""
        found = self.table.take(pa.array(rows, type=pa.int64())).to_pylist()
        return [
            Item(**{**item, "attributes": dict(item["attributes"]), "texts": tuple(item["texts"])}) for item in found
        ]

    def ids(self) -> list[str]:
        """All product ids, by row."""
        return self.table.column("product_id").to_pylist()

"""What a result list shows of each product, as one Parquet file in row order."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from maxsearch.data.records import Product

SCHEMA = pa.schema(
    [
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("variant", pa.string(), nullable=False),
        pa.field("attributes", pa.map_(pa.string(), pa.string()), nullable=False),
    ]
)
ROW_GROUP = 8192


@dataclass(frozen=True)
class Item:
    """A product without its image."""

    product_id: str
    title: str
    variant: str
    attributes: dict[str, str]


class ItemsWriter:
    """Writes products to a Parquet file, a row group at a time; use as a context manager."""

    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, SCHEMA, compression="zstd")
        self._rows: list[dict[str, object]] = []

    def __enter__(self) -> "ItemsWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()

    def extend(self, products: Iterable[Product]) -> None:
        """Appends products; their images are left out."""
        self._rows.extend(
            {
                "product_id": product.product_id,
                "title": product.title,
                "variant": product.variant,
                "attributes": sorted(product.attributes.items()),
            }
            for product in products
        )
        if len(self._rows) >= ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=SCHEMA))
            self._rows = []


class Items:
    """The items of an index, by row; rows become Python objects only when they are asked for."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    @classmethod
    def read(cls, path: Path) -> "Items":
        """Reads what `ItemsWriter` wrote.

        Raises:
          pa.ArrowException: the file is not Parquet, or has other columns.
        """
        return cls(pq.read_table(path, schema=SCHEMA))

    def __len__(self) -> int:
        return self._table.num_rows

    def __getitem__(self, row: int) -> Item:
        return self.take([row])[0]

    def take(self, rows: Sequence[int]) -> list[Item]:
        """The items at the given rows, in that order."""
        found = self._table.take(pa.array(rows, type=pa.int64())).to_pylist()
        return [Item(**{**item, "attributes": dict(item["attributes"])}) for item in found]

    def ids(self) -> list[str]:
        """All product ids, by row."""
        return self._table.column("product_id").to_pylist()

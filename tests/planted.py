"""Two small datasets with known duplicates, and things that they share."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from maxsearch.prepare.run import PrepareOptions, prepare

Row = tuple[str, str, list[bytes], str]
Click = tuple[str, str, float]


def picture(colour: str, width: int = 8, height: int = 8, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, kind)
    return buffer.getvalue()


RED, BLUE, GREEN = picture("red"), picture("blue", 12, 16), picture("green")


def planted(folder: Path, name: str, rows: Sequence[Row], clicks: Sequence[Click], **more: Any) -> Path:
    """Prepares products (id, title, images, variant) and clicks (query, id, weight)."""
    ids, titles, images, variants = zip(*rows, strict=True)
    products = {"product_id": ids, "title": titles, "image": images, "variant": variants}
    schema = pa.schema(
        {"product_id": pa.string(), "title": pa.string(), "image": pa.list_(pa.binary()), "variant": pa.string()}
    )
    pq.write_table(
        pa.table({key: list(values) for key, values in products.items()}, schema), folder / f"{name}.parquet"
    )
    query, product, weight = zip(*clicks, strict=True)
    table = pa.table({"query": list(query), "product_id": list(product), "weight": list(weight)})
    pq.write_table(table, folder / f"{name}.clicks.parquet")
    out = folder / name
    files = (folder / f"{name}.parquet", folder / f"{name}.clicks.parquet")
    prepare(PrepareOptions(*files, out, shard_records=3, keywords=0, **more))
    return out


ROWS: list[Row] = [
    ("p0", "Red Shoe", [RED], ""),
    ("p1", "red  SHOE", [RED, BLUE], ""),
    ("p2", "blue hat", [BLUE, BLUE], "v"),
    ("p3", "", [GREEN], "v"),
    ("p4", "a plain hat for winter", [], "v"),
    ("p5", "red shoe", [picture("white")], ""),
    ("p6", "nobody wants this", [picture("black")], "w"),
]
CLICKS: list[Click] = [
    ("shoe", "p0", 1.0),
    ("SHOE", "p1", 2.0),
    ("warm hat", "p4", 3.0),
    ("hat", "p2", 4.0),
    ("hat", "p3", 0.5),
    ("red shoe", "p5", 1.0),
]

TEST_ROWS: list[Row] = [
    ("t0", "green glove", [picture("lime")], ""),
    ("p6", "something else", [picture("navy")], ""),
    ("t1", "RED shoe", [picture("pink")], ""),
    ("t2", "gold ring", [GREEN], "w"),
]
TEST_CLICKS: list[Click] = [("glove", "t0", 6.0), ("Hat", "t2", 1.0), ("shoe", "t1", 1.0)]

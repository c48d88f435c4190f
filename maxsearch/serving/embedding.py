"""Embeds a catalogue part by part, so that a killed job goes on where it was and several hosts may share one.

A part is PART products in the catalogue's order, kept as one Arrow file that appears whole or not at all: the items,
their vectors, and a digest of the products as they were read and of the model. A part that stands there with the right
digest is not embedded again, whoever wrote it, so resuming, sharing and taking up a catalogue that changed in places
are one thing (ours).
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

from maxsearch.data.records import Product, pack_product
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.files import write_bytes
from maxsearch.serving.encoder import EmbeddingModel
from maxsearch.serving.items import SCHEMA, items_table
from maxsearch.serving.pictures import packed

PART = 4096
VECTOR, PICTURES = "vector", "pictures"
DIGEST = b"digest"


@dataclass(frozen=True)
class Share:
    """Which parts a host embeds: those whose number leaves the rest `number` - 1 when divided by `of`."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Share":
        """Reads "2/4".

        Raises:
          UsageError: it is no share.
        """
        number, slash, of = text.partition("/")
        if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise UsageError(f"--share {text!r} is no share: give one such as 2/4, the second of four")
        return cls(int(number), int(of))


@dataclass(frozen=True)
class Embedded:
    """A catalogue's parts in their order, and how many of its products this job found embedded already."""

    parts: tuple[Path, ...]
    count: int
    reused: int

    def tables(self) -> Iterator[pa.Table]:
        """The items of each part."""
        for part in self.parts:
            yield _read(part).select(SCHEMA.names).cast(SCHEMA)

    def pictures(self) -> Iterator[bytes]:
        """The packed pictures of each product."""
        for part in self.parts:
            yield from (row.as_py() for row in _read(part).column(PICTURES))

    def vectors(self) -> Iterator[Float32[np.ndarray, "n D"]]:
        """The vectors of each part."""
        for part in self.parts:
            column = _read(part).column(VECTOR).combine_chunks()
            yield column.flatten().to_numpy().reshape(len(column), -1)


def embed(
    encoder: EmbeddingModel,
    products: Iterable[Product],
    work: Path,
    *,
    share: Share | None = None,
    batch_size: int = 256,
) -> Embedded:
    """Embeds what `work` does not hold yet.

    Memory stays bounded by a part and the ids.

    Args:
      encoder: the model.
      products: the catalogue, with ids that differ; it is read from its start also when the job goes on.
      work: the job's folder.
      share: the parts to embed, all when None; the others are then not asked for.
      batch_size: products embedded at a time.

    Returns:
      The parts, those of other shares left out.

    Raises:
      MaxsearchError: no products, an id that is empty or stands twice, or a vector that is not finite.
    """
    iterator = _with_own_ids(products)
    parts: list[Path] = []
    number = count = reused = 0
    while chunk := list(islice(iterator, PART)):
        part = work / f"part-{number:06d}.arrow"
        if share is None or number % share.of == share.number - 1:
            digest = _digest(encoder, chunk)
            if _holds(part, digest):
                reused += len(chunk)
            else:
                vectors = _embed(encoder, chunk, batch_size, first=count + 1)
                _write(part, chunk, vectors, digest)
            parts.append(part)
        number, count = number + 1, count + len(chunk)
    if count == 0:
        raise MaxsearchError("the catalogue holds no products to index: check the products file and its rejected rows")
    return Embedded(tuple(parts), count, reused)


def require_finite(vectors: Float32[np.ndarray, "n D"], products: list[Product], first: int) -> None:
    """Refuses vectors that are not finite: ScaNN ends the process on one.

    Args:
      vectors: of the products.
      products: the products.
      first: place of the first one in the catalogue, from 1.

    Raises:
      MaxsearchError: one is not finite.
    """
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise MaxsearchError(
            f"the model gives product {products[bad[0]].product_id!r} (product {first + bad[0]:,} of the catalogue) "
            "a vector that is not finite: use a model from an earlier training step"
        )


def _with_own_ids(products: Iterable[Product]) -> Iterator[Product]:
    first: dict[str, int] = {}
    for position, product in enumerate(products, 1):
        if not product.product_id:
            raise MaxsearchError(f"product {position:,} of the catalogue has no id: give each product an id of its own")
        earlier = first.setdefault(product.product_id, position)
        if earlier != position:
            raise MaxsearchError(
                f"product id {product.product_id!r} stands twice in the catalogue, "
                f"at products {earlier:,} and {position:,}: give each product an id of its own"
            )
        yield product


def _digest(encoder: EmbeddingModel, products: list[Product]) -> bytes:
    digest = hashlib.sha256(f"{encoder.fingerprint} {encoder.dim} {len(products)} ".encode())
    for product in products:
        digest.update(pack_product(product))
    return digest.hexdigest().encode()


def _embed(encoder: EmbeddingModel, products: list[Product], batch_size: int, first: int) -> Float32[np.ndarray, "n D"]:
    blocks, done = [], 0
    for batch in encoder.encode_products(products, batch_size):
        require_finite(batch.p, batch.products, first + done)
        blocks.append(batch.p)
        done += len(batch.products)
    return np.concatenate(blocks)


def _write(part: Path, products: list[Product], vectors: Float32[np.ndarray, "n D"], digest: bytes) -> None:
    values = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).ravel())
    column = pa.FixedSizeListArray.from_arrays(values, vectors.shape[1])
    pictures = pa.array([packed(product.images) for product in products], pa.large_binary())
    table = items_table(products).append_column(VECTOR, column).append_column(PICTURES, pictures)
    table = table.replace_schema_metadata({DIGEST: digest})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    write_bytes(part, sink.getvalue().to_pybytes())


def _holds(part: Path, digest: bytes) -> bool:
    try:
        with pa.memory_map(str(part)) as source, pa.ipc.open_file(source) as reader:
            return (reader.schema.metadata or {}).get(DIGEST) == digest
    except (OSError, pa.ArrowException):
        return False


def _read(part: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(part))).read_all()

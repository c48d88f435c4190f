"""What a log of writes records: products put in or taken out of a store, since which model and when."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import msgpack
import numpy as np
from jaxtyping import Float32

from maxsearch.errors import MaxsearchError
from maxsearch.serving.encoder import EncodedBatch
from maxsearch.serving.items import Item


@dataclass(frozen=True)
class Upsert:
    """A product that is put in, or in the place of the one with its id.

    Attributes:
      item: what results show of it.
      vector: its unit vector.
      images: its pictures.
    """

    item: Item
    vector: Float32[np.ndarray, " D"]
    images: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Write:
    """One acknowledged call: all of it happened, or none.

    Attributes:
      sequence: its place among all writes of the store, from 1.
      time: when it was acknowledged, in seconds since 1970; never falls.
      model: fingerprint of the model that the vectors are of; empty where there are none.
      upserts: products put in, with ids that differ.
      deletes: ids taken out.
    """

    sequence: int
    time: float
    model: str
    upserts: tuple[Upsert, ...] = ()
    deletes: tuple[str, ...] = ()

    def pack(self) -> bytes:
        """As a record of the log."""
        upserts = [
            [
                one.item.product_id,
                one.item.title,
                one.item.variant,
                one.item.attributes,
                one.item.texts,
                one.vector.astype("<f4").tobytes(),
                one.images,
            ]
            for one in self.upserts
        ]
        return msgpack.packb([self.sequence, self.time, self.model, upserts, self.deletes])

    @classmethod
    def unpack(cls, record: bytes) -> "Write":
        """Reverses `pack`."""
        sequence, time, model, upserts, deletes = msgpack.unpackb(record)
        read = tuple(
            Upsert(
                Item(product_id, title, variant, attributes, tuple(texts)),
                np.frombuffer(vector, np.float32),
                tuple(images),
            )
            for product_id, title, variant, attributes, texts, vector, images in upserts
        )
        return cls(sequence, time, model, read, tuple(deletes))


def require_upserts(upserts: Sequence[Upsert], dim: int) -> None:
    """Refuses products that an index cannot hold.

    Args:
      upserts: the products of one call.
      dim: size of the index's vectors.

    Raises:
      MaxsearchError: an id that is empty or stands twice, or a vector that is of another size or not finite.
    """
    seen = set()
    for number, one in enumerate(upserts, 1):
        name = f"product {one.item.product_id!r} (number {number:,} of the call)"
        if not one.item.product_id:
            raise MaxsearchError(f"product {number:,} of the call has no id: give each product an id of its own")
        if one.item.product_id in seen:
            raise MaxsearchError(f"{name} stands twice in one call: give each product once")
        seen.add(one.item.product_id)
        if one.vector.shape != (dim,):
            raise MaxsearchError(
                f"{name} has a vector of shape {one.vector.shape} and the index holds vectors of {dim} numbers: embed "
                "it with the model that built the index"
            )
        if not np.isfinite(one.vector).all():
            raise MaxsearchError(f"{name} has a vector that is not finite: embed it again, with another model step")


def net(writes: Iterable[Write]) -> list[Write]:
    """The writes without what a later one of them makes void; a write of which nothing is left is left out."""
    kept: list[Write] = []
    later: set[str] = set()
    for write in reversed(list(writes)):
        upserts = tuple(one for one in write.upserts if one.item.product_id not in later)
        deletes = tuple(product_id for product_id in write.deletes if product_id not in later)
        later.update(one.item.product_id for one in upserts)
        later.update(deletes)
        if upserts or deletes:
            kept.append(replace(write, upserts=upserts, deletes=deletes))
    return kept[::-1]


def upserts_of(batch: EncodedBatch) -> list[Upsert]:
    """Embedded products as what is put into a store."""
    return [
        Upsert(Item(one.product_id, one.title, one.variant, one.attributes, one.texts), vector, one.images)
        for one, vector in zip(batch.products, batch.p, strict=True)
    ]

"""The two records of a prepared dataset, and their bytes.

A record is packed with MessagePack: a small, fixed, self-describing format without code execution on load.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgpack

SCHEMA_VERSION = 2


@dataclass(frozen=True)
class Product:
    """One item of the catalogue.

    Attributes:
      product_id: the shop's own identifier.
      title: the seller's title; empty when there is none.
      images: encoded pictures (JPEG, PNG or WebP), upright, the front one first; empty when there is none.
      variant: group of products that differ in size or the like and are positives of one another; empty when unknown.
      attributes: the catalogue's further columns, as text. Never fed to the model; kept for display and filters.
      texts: further text fields, such as brand and description, each in the place that it has in every product; one
        that the product lacks is empty, or left out at the end.
    """

    product_id: str
    title: str
    images: tuple[bytes, ...] = ()
    variant: str = ""
    attributes: dict[str, str] = field(default_factory=dict)
    texts: tuple[str, ...] = ()

    @property
    def image(self) -> bytes | None:
        """The front picture."""
        return self.images[0] if self.images else None


@dataclass(frozen=True)
class Interaction:
    """A query that led to a product.

    Attributes:
      query: what the shopper typed.
      product: position of the product in the dataset's product records, from 0.
      weight: how often, or how strongly; above 0.
    """

    query: str
    product: int
    weight: float = 1.0


def text_fields(title: str, texts: Sequence[str], count: int) -> list[str]:
    """The first `count` text fields of a product, the title first; those that it lacks are empty."""
    fields = [title, *texts][:count]
    return fields + [""] * (count - len(fields))


def pack_product(product: Product) -> bytes:
    """Packs a product; equal products give equal bytes (attributes are sorted by name)."""
    return msgpack.packb(
        {
            "product_id": product.product_id,
            "title": product.title,
            "images": product.images,
            "variant": product.variant,
            "attributes": dict(sorted(product.attributes.items())),
            "texts": product.texts,
        }
    )


def unpack_product(data: bytes) -> Product:
    """Reverses `pack_product`."""
    return Product(**msgpack.unpackb(data, use_list=False))


def pack_interaction(interaction: Interaction) -> bytes:
    """Packs an interaction."""
    return msgpack.packb([interaction.query, interaction.product, interaction.weight])


def unpack_interaction(data: bytes) -> Interaction:
    """Reverses `pack_interaction`."""
    return Interaction(*msgpack.unpackb(data))

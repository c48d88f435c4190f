"""The two records of a prepared dataset, and their bytes.

A record is packed with MessagePack: a small, fixed, self-describing format without code execution on load.
"""

from dataclasses import dataclass, field

import msgpack

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Product:
    """One item of the catalogue.

    Attributes:
      product_id: the shop's own identifier.
      title: the seller's title; empty when there is none.
      image: an encoded picture (JPEG, PNG or WebP), upright; None when there is none.
      variant: group of products that differ in size or the like and are positives of one another; empty when unknown.
      attributes: the catalogue's further columns, as text. Never fed to the model; kept for display and filters.
    """

    product_id: str
    title: str
    image: bytes | None = None
    variant: str = ""
    attributes: dict[str, str] = field(default_factory=dict)


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


def pack_product(product: Product) -> bytes:
    """Packs a product; equal products give equal bytes (attributes are sorted by name)."""
    return msgpack.packb(
        {
            "product_id": product.product_id,
            "title": product.title,
            "image": product.image,
            "variant": product.variant,
            "attributes": dict(sorted(product.attributes.items())),
        }
    )


def unpack_product(data: bytes) -> Product:
    """Reverses `pack_product`."""
    return Product(**msgpack.unpackb(data))


def pack_interaction(interaction: Interaction) -> bytes:
    """Packs an interaction."""
    return msgpack.packb([interaction.query, interaction.product, interaction.weight])


def unpack_interaction(data: bytes) -> Interaction:
    """Reverses `pack_interaction`."""
    return Interaction(*msgpack.unpackb(data))

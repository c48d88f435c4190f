"""A model whose vectors tests can foresee: directions drawn from the letters of texts and the bytes of pictures."""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from maxsearch.data.records import Product

WIDTH = 6


@dataclass
class Batch:
    products: list[Product]
    p: np.ndarray
    t: np.ndarray
    v: np.ndarray
    weights: np.ndarray


def vector(content: str | bytes, salt: int = 0) -> np.ndarray:
    """A unit vector; equal contents give equal vectors."""
    data = content.encode() if isinstance(content, str) else content
    drawn = np.random.default_rng([zlib.crc32(data), salt]).normal(size=WIDTH)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


class LetterEncoder:
    """The query tower, the title tower and the picture tower each have directions of their own."""

    image_edge = 32
    fingerprint = "0123456789abcdef"

    def encode_queries(self, queries: Sequence[str]) -> np.ndarray:
        return np.stack([vector(text, 1) for text in queries])

    def encode_products(self, products: Iterable[Product]) -> Iterator[Batch]:
        for product in products:
            t, v = vector(product.title, 2)[None], vector(product.image or b"", 3)[None]
            yield Batch([product], (t + v) / 2, t, v, np.full((1, 2), 0.5, np.float32))

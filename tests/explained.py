"""A model of a few lines that sees red and blue, and a picture for it."""

import io
from collections.abc import Iterable, Iterator, Sequence
from types import SimpleNamespace

import numpy as np
from PIL import Image

from maxsearch.config import Config, ImageConfig, ModelConfig
from maxsearch.data.keywords import Lexicon
from maxsearch.data.records import Product
from maxsearch.data.transforms import eval_image
from tests.serving_fakes import unit

WORDS = ("red", "blue", "shoe")
RED_AT = {(0, 1)}  # of the 4 x 4 cells of a map


def scene(title: str, product_id: str = "s", edge: int = 64) -> Product:
    """A white picture with red in the second cell of its first row and blue below, at the right."""
    picture = Image.new("RGB", (edge, edge), "white")
    cell = edge // 4
    picture.paste((255, 0, 0), (cell, 0, 2 * cell, cell))
    picture.paste((0, 0, 255), (2 * cell, 2 * cell, 4 * cell, 3 * cell))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return Product(product_id, title, (buffer.getvalue(),))


class Painter:
    """Words are axes, a picture is how much of it is red and blue, and a product is the sum of title and picture."""

    config = Config(model=ModelConfig(dim=4, keywords=3, image=ImageConfig(size=(64, 64), patch=32)))
    fingerprint = "painter"

    def __init__(self, *, aligns: bool = False, broken: bool = False) -> None:
        self.aligns, self.broken = aligns, broken
        self.lexicon = Lexicon(WORDS) if aligns else None

    def encode_queries(self, queries: Sequence[str]) -> np.ndarray:
        rows = [[*(word in query.lower().split() for word in WORDS), 0.1] for query in queries]
        return unit(np.array(rows, np.float32)) if rows else np.zeros((0, 4), np.float32)

    def encode_products(self, products: Iterable[Product], batch_size: int = 256) -> Iterator[SimpleNamespace]:
        products = list(products)
        parts = self.additive_parts(products)
        weights = np.full((len(products), 2), 0.5, np.float32)
        yield SimpleNamespace(products=products, p=parts.sum(axis=1), t=parts[:, 0], v=parts[:, 1], weights=weights)

    def encode_painted(self, product: Product, pixels: np.ndarray) -> np.ndarray:
        title = self._title(product)
        return unit(np.stack([title + self._seen(picture) + self._rest for picture in pixels]))

    def additive_parts(self, products: Sequence[Product]) -> np.ndarray:
        size = self.config.model.image.size
        pictures = [self._seen(eval_image(one.image, size)) * bool(one.images) for one in products]
        parts = np.stack([[self._title(one), seen, self._rest] for one, seen in zip(products, pictures, strict=True)])
        return (parts / np.linalg.norm(parts.sum(axis=1), axis=-1)[:, None, None]).astype(np.float32)

    def patch_words(self, products: Sequence[Product]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        aligned = np.full((len(products), 4, 3), 0.1, np.float32)
        aligned[:, 0, 0], aligned[:, 3, 1] = 0.9, 0.8
        return aligned, aligned / 2, np.ones((len(products), 4), bool)

    @property
    def _rest(self) -> np.ndarray:
        return np.array([0, 0, 0, np.nan if self.broken else 0.2], np.float32)

    def _title(self, product: Product) -> np.ndarray:
        words = product.title.lower().split()
        return np.array([*(word in words for word in WORDS), 0], np.float32)

    def _seen(self, picture: np.ndarray) -> np.ndarray:
        red, green, blue = (picture[..., channel] > 128 for channel in range(3))
        return np.array([(red & ~green).mean() * 8, (blue & ~green).mean() * 4, 0, 0], np.float32)

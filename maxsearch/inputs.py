"""Products as the arrays that a model reads, in batches of few shapes, and the vectors that it gives them.

Training's own tokenizer and picture code, and nothing of the model: an exported program needs no more.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8

from maxsearch.data.records import Product, text_fields
from maxsearch.data.transforms import eval_image


@dataclass(frozen=True)
class EncodedProducts:
    """A batch of products with their unit vectors, in the order they came.

    Attributes:
      products: the records.
      p, t, v: fused, title-only and image-only vectors; t and v are of the null token where the modality is missing.
      weights: how much title and image weigh in p; rows sum to 1.
    """

    products: list[Product]
    p: Float32[np.ndarray, "n D"]
    t: Float32[np.ndarray, "n D"]
    v: Float32[np.ndarray, "n D"]
    weights: Float32[np.ndarray, "n 2"]


def product_arrays(
    products: Sequence[Product],
    titles: Callable[[list[str]], tuple[np.ndarray, np.ndarray]],
    *,
    texts: int,
    images: int,
    size: tuple[int, int],
) -> dict[str, np.ndarray]:
    """A batch of products as arrays.

    Args:
      products: B records; images as `read_products` gives them.
      titles: turns texts into (ids, mask) of a fixed length T, as TextRows does.
      texts: F, the text fields that the model reads; those of a product stand end to end.
      images: N, the pictures that it reads.
      size: (H, W) of a picture.

    Returns:
      ids int32 [B, F T], mask bool [B, F T], image uint8 [B, N, H, W, 3], present bool [B, N].
    """
    fields = [field for product in products for field in text_fields(product.title, product.texts, texts)]
    ids, mask = (rows.reshape(len(products), -1) for rows in titles(fields))
    image = np.stack([pixels(product, images, size) for product in products])
    present = np.array([np.arange(images) < len(product.images) for product in products])
    return {"ids": ids, "mask": mask, "image": image, "present": present}


def pixels(product: Product, images: int, size: tuple[int, int]) -> UInt8[np.ndarray, "N H W 3"]:
    """The product's first N pictures; those that it lacks are white."""
    shown = (*product.images, *(None,) * images)[:images]
    return np.stack([eval_image(data, size) for data in shown])


def power_of_two(count: int) -> int:
    """The next power of two: few shapes, each of which compiles once."""
    return 1 << (count - 1).bit_length()


def padded(rows: np.ndarray, size: int) -> np.ndarray:
    """Repeats the last row up to `size` rows: a fixed shape compiles once."""
    return np.concatenate([rows, np.repeat(rows[-1:], size - len(rows), axis=0)]) if len(rows) < size else rows

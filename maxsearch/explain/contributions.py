"""What title, image and the words of the query add to a score.

D size of the compared vectors, M parts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32

from maxsearch.data.records import Product
from maxsearch.explain.explanation import Contributions, QueryWord
from maxsearch.explain.model import ExplainedModel

PARTS = ("title", "image", "visual words")
TOGETHER = "together"
MOST_QUERY_WORDS = 24  # the last words of a longer query are not explained
COALITIONS = 4  # products to embed at once: few shapes compile
LEAST_SUM = 1e-6  # below this, what a part's vector adds is rounding


@dataclass(frozen=True)
class ProductSide:
    """A product's vectors, whole and in parts.

    Attributes:
      coalitions: of the product with title and image, title alone, image alone, and neither.
      parts: what adds up to the first of them.
      weights: of title and image.
    """

    coalitions: Float32[np.ndarray, "4 D"]
    parts: Float32[np.ndarray, "M D"]
    weights: tuple[float, float]


def product_side(model: ExplainedModel, product: Product) -> ProductSide:
    """Embeds a product with and without its title and its pictures."""
    title_only = replace(product, images=())
    image_only = without_title(product)
    neither = replace(image_only, images=())
    batch = next(iter(model.encode_products([product, title_only, image_only, neither], COALITIONS)))
    title, image = batch.weights[0].tolist()
    return ProductSide(batch.p, model.additive_parts([product])[0], (title, image))


def without_title(product: Product) -> Product:
    """The product with its pictures alone."""
    return replace(product, title="", texts=())


def shapley(both: float, title_only: float, image_only: float, neither: float) -> tuple[float, float]:
    """The Shapley values of title and image, two players whose coalitions have these scores (Shapley 1953).

    Both values and the score of neither add up to the score of both.
    """
    title = ((title_only - neither) + (both - image_only)) / 2
    image = ((image_only - neither) + (both - title_only)) / 2
    return title, image


def contributions(query: Float32[np.ndarray, " D"], side: ProductSide) -> Contributions:
    """What title and image add to the score of a query's vector with a product."""
    both, title_only, image_only, neither = (side.coalitions @ query).tolist()
    title, image = shapley(both, title_only, image_only, neither)
    return Contributions(both, title_only, image_only, neither, title, image, side.weights, _parts(query, side))


def _parts(query: Float32[np.ndarray, " D"], side: ProductSide) -> tuple[tuple[str, float], ...]:
    if np.abs(side.parts[:-1]).max() < LEAST_SUM:
        return ()
    names = (*PARTS[: len(side.parts) - 1], TOGETHER)
    return tuple(zip(names, (side.parts @ query).tolist(), strict=True))


def query_words(model: ExplainedModel, query: str, product: Float32[np.ndarray, " D"]) -> tuple[QueryWord, ...]:
    """The words of a query between spaces, each with what the score loses when it is left out.

    Args:
      model: encodes the shorter queries.
      query: as typed.
      product: the product's vector.
    """
    words = query.split()
    if len(words) == 1:
        return (QueryWord(words[0], None),)
    tried = words[:MOST_QUERY_WORDS]
    shorter = [" ".join(words[:place] + words[place + 1 :]) for place in range(len(tried))]
    whole, *scores = (model.encode_queries([query, *shorter]) @ product).tolist()
    effects = [whole - score for score in scores] + [None] * (len(words) - len(tried))
    return tuple(QueryWord(word, effect) for word, effect in zip(words, effects, strict=True))


def distinct(words: Sequence[str]) -> list[str]:
    """Words that differ by more than their case, each as it first stands."""
    return list({word.casefold(): word for word in reversed(words)}.values())[::-1]

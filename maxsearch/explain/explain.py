"""From a model, a query and a product to the explanation of the score."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from maxsearch.data.keywords import STOP_WORDS, stem, words_of
from maxsearch.data.records import Product
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.explain.contributions import (
    MOST_QUERY_WORDS,
    ProductSide,
    contributions,
    distinct,
    product_side,
    query_words,
)
from maxsearch.explain.explanation import Explanation, HeatMap, MapKind
from maxsearch.explain.maps import Occlusion, Reading, as_grid, best_words, occlusion, reading
from maxsearch.explain.model import ExplainedModel

SEEN_WORDS = 6
FELT = 0.1  # of the largest loss: a smaller one does not name a place
MOST_KEYWORDS = 1024  # that cells without an aligner choose their words from


def explain(model: ExplainedModel, query: str, product: Product) -> Explanation:
    """Why a product has its score for a query.

    Args:
      model: the model.
      query: what the shopper typed.
      product: the record; images as `read_products` gives them.

    Raises:
      UsageError: the query is empty.
      MaxsearchError: the model's vectors are not finite.
    """
    return explain_queries(model, [query], product)[0]


def explain_queries(model: ExplainedModel, queries: Sequence[str], product: Product) -> list[Explanation]:
    """The same for several queries: what only the product decides is computed once.

    A product without a picture has no maps.
    """
    if not queries or not all(query.split() for query in queries):
        raise UsageError("the query is empty: type what the shopper is looking for")
    side = product_side(model, product)
    vectors = model.encode_queries(list(queries))
    if not (np.isfinite(vectors).all() and np.isfinite(side.coalitions).all()):
        raise MaxsearchError("the model gives vectors that are not finite: use a model from an earlier training step")
    hidden = occlusion(model, product) if product.images else None
    read = reading(model, product) if product.images and model.aligns else None
    return [
        _explained(model, query, vector, product, side, hidden, read)
        for query, vector in zip(queries, vectors, strict=True)
    ]


def _explained(
    model: ExplainedModel,
    query: str,
    vector: Float32[np.ndarray, " D"],
    product: Product,
    side: ProductSide,
    hidden: Occlusion | None,
    read: Reading | None,
) -> Explanation:
    added = contributions(vector, side)
    maps: tuple[HeatMap, ...] = ()
    kind: MapKind = "occlusion" if read is None else "aligner"
    patches: tuple[tuple[tuple[str, ...], ...], ...] = ()
    if hidden is not None:
        asked = content_words(query)[:MOST_QUERY_WORDS]
        maps = _maps(model, query, vector, asked, hidden, read)
        patches = _patch_words(model, [*asked, *content_words(product.title)], hidden, read)
    return Explanation(
        query=query,
        product_id=product.product_id,
        title=product.title,
        pictures=len(product.images),
        score=added.both,
        contributions=added,
        words=query_words(model, query, side.coalitions[0]),
        maps=maps,
        patch_kind=kind,
        patch_words=patches,
        model=model.fingerprint,
    )


def content_words(text: str) -> list[str]:
    """The distinct words of a text between spaces that are more than stop words and marks."""
    return distinct([word for word in text.split() if set(words_of(word)) - STOP_WORDS])


def _maps(
    model: ExplainedModel,
    query: str,
    vector: Float32[np.ndarray, " D"],
    asked: Sequence[str],
    hidden: Occlusion,
    read: Reading | None,
) -> tuple[HeatMap, ...]:
    """Of the query, of each word (by the aligner too where it knows it), and of what the aligner sees besides."""
    words = [word for word in asked if word.casefold() != query.strip().casefold()]
    vectors = np.concatenate([vector[None], model.encode_queries(words)])
    maps = [
        HeatMap(word, "occlusion", True, as_grid(values))
        for word, values in zip([query, *words], hidden.maps(vectors), strict=True)
    ]
    if read is None:
        return tuple(maps)
    stems = {stem(part) for word in asked for part in words_of(word)}
    seen = [word for word in read.seen(SEEN_WORDS + len(stems)) if stem(word) not in stems][:SEEN_WORDS]
    for word in [*asked, *seen]:
        values = read.map_of(word)
        if values is not None:
            maps.append(HeatMap(word, "aligner", word not in seen, as_grid(values)))
    return tuple(maps)


def _patch_words(
    model: ExplainedModel, texts: Sequence[str], hidden: Occlusion, read: Reading | None
) -> tuple[tuple[tuple[str, ...], ...], ...]:
    """The keywords that patches are nearest to; without an aligner, the words that suffer most when a cell is hidden.

    Args:
      model: the model.
      texts: words to choose from where the model has no keywords.
      hidden: the cells.
      read: the aligner's cosines.
    """
    if read is not None:
        return best_words(read.cosines, read.words)
    words = list(model.lexicon.words[:MOST_KEYWORDS]) if model.lexicon else distinct(texts)
    if not words:
        return ()
    lost = np.moveaxis(hidden.maps(model.encode_queries(words)), 0, -1)
    top = float(lost.max())
    return best_words(lost, words, least=FELT * top if top > 0 else np.inf)

"""Queries as vectors, and the encoder made ready for them: the same whichever engine searches."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from maxsearch.data.records import Product
from maxsearch.errors import MaxsearchError
from maxsearch.inputs import power_of_two
from maxsearch.serving.encoder import EmbeddingModel
from maxsearch.serving.shop.answer import QueryInput

WARM_QUERIES = ("shoes", "navy blue casual shoes for men")


def encode(model: EmbeddingModel, inputs: Sequence[QueryInput]) -> Float32[np.ndarray, "n D"]:
    """Unit vectors of queries; see `Engine.encode`."""
    sums = np.zeros((len(inputs), model.dim), np.float32)
    worded = [place for place, one in enumerate(inputs) if one.text and one.text_weight]
    pictured = [place for place, one in enumerate(inputs) if one.image is not None and one.image_weight]
    if worded:
        vectors = model.encode_queries([inputs[place].text for place in worded])
        sums[worded] += np.array([[inputs[place].text_weight] for place in worded], np.float32) * vectors
    if pictured:
        shown = [Product(str(place), "", (inputs[place].image or b"",)) for place in pictured]
        batches = model.encode_products(shown, batch_size=power_of_two(len(shown)))
        vectors = np.concatenate([batch.v for batch in batches])
        sums[pictured] += np.array([[inputs[place].image_weight] for place in pictured], np.float32) * vectors
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return sums / np.where(lengths > 0, lengths, 1)


def warm_encoder(model: EmbeddingModel, max_batch: int) -> None:
    """Compiles the encoder for every size of batch.

    Raises:
      MaxsearchError: its vectors are not finite.
    """
    size = 1
    while size <= power_of_two(max_batch):
        vectors = encode(model, [QueryInput(WARM_QUERIES[n % 2]) for n in range(size)])
        if not np.isfinite(vectors).all():
            raise MaxsearchError("the model gives queries vectors that are not finite: export another step")
        size *= 2

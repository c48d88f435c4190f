"""The arrays of a training batch: what the stream lays out, and what a step is compiled for."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from maxsearch.config import Config
from maxsearch.data.keywords import PRODUCT_KEYWORDS, QUERY_KEYWORDS
from maxsearch.errors import UsageError
from maxsearch.mesh import spec

Layout = dict[str, tuple[tuple[int, ...], type[np.generic]]]


def batch_layout(config: Config, places: tuple[int, ...] | None = None) -> Layout:
    """Shape and dtype of every array of a global batch, by name.

    Args:
      config: of the run.
      places: token places of the query and of the title, where they are not all that the model reads.
    """
    B, model = config.data.batch_size, config.model
    query, title = places or (model.query.max_tokens, model.texts * model.title.max_tokens)
    layout: Layout = {
        "query_ids": ((B, query), np.int32),
        "query_mask": ((B, query), np.bool_),
        "title_ids": ((B, title), np.int32),
        "title_mask": ((B, title), np.bool_),
        "image": ((B, model.images, *model.image.size, 3), np.uint8),
        "image_present": ((B, model.images), np.bool_),
        **dict.fromkeys(("product", "variant", "query"), ((B,), np.int32)),
        "weight": ((B,), np.float32),
    }
    if config.uses("mlm_query", "mlm_title"):
        layout |= {"query_word": ((B, query), np.int32), "title_word": ((B, title), np.int32)}
    if model.keywords:
        layout |= {
            "query_keywords": ((B, QUERY_KEYWORDS), np.int32),
            "query_covered": ((B,), np.bool_),
            "product_keywords": ((B, PRODUCT_KEYWORDS), np.int32),
        }
    return layout


def check_batch(size: int, parts: int, microbatches: int = 1) -> None:
    """Refuses a batch that does not divide over the mesh, each of its microbatches alike.

    Raises:
      UsageError: it does not.
    """
    if size % (parts * microbatches):
        cut = f" x {microbatches} microbatches" if microbatches > 1 else ""
        raise UsageError(f"--data.batch-size {size} must be a multiple of the {parts} batch shards of the mesh" + cut)


def abstract_batch(
    config: Config, mesh: Mesh, places: tuple[int, ...] | None = None
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and layout of a training batch; `places` as for `batch_layout`."""
    return abstract_rows(batch_layout(config, places), mesh)


def abstract_rows(layout: Layout, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of arrays whose rows are split over the batch axes."""

    def rows(shape: tuple[int, ...], dtype: type[np.generic]) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(mesh, spec("batch", *(None,) * (len(shape) - 1)))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    return {name: rows(*each) for name, each in layout.items()}

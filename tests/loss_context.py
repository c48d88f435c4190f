"""What the losses read, made from vectors alone, and what their tests share."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from maxsearch.config import LossConfig
from maxsearch.losses.context import Context
from maxsearch.mesh import gathered
from maxsearch.models.fusion import Tokens
from maxsearch.models.search import Outputs, ProductTokens, ProductVectors, SearchModel

SCALE, BIAS = 7.0, -3.0
B, E = 6, 5
SIDES = ("query", "product", "title", "image")


def units(seed: int, rows: int = B, size: int = E) -> np.ndarray:
    """Unit vectors that float32 holds exactly, so that both sides start from the same numbers."""
    x = np.random.default_rng(seed).normal(size=(rows, size))
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def four_sides(seed: int) -> dict[str, np.ndarray]:
    """Vectors of query, product, title and image."""
    return {name: units(10 * seed + number) for number, name in enumerate(SIDES)}


def differences(function: Callable[..., float], *arrays: np.ndarray) -> list[np.ndarray]:
    """Central differences of a float64 function by each entry of each array."""
    arrays = tuple(array.astype(float) for array in arrays)
    found = [np.zeros_like(array) for array in arrays]
    for gradient, array in zip(found, arrays, strict=True):
        for index in np.ndindex(array.shape):
            value = array[index]
            array[index] = value + 1e-5
            up = function(*arrays)
            array[index] = value - 1e-5
            gradient[index] = (up - function(*arrays)) / 2e-5
            array[index] = value
    return found


def make_outputs(vectors: Mapping[str, Any], scale: float = SCALE, bias: float = BIAS) -> Outputs:
    """Outputs of a model that gave these vectors; the token states are empty."""
    vectors = on_batch_axes(vectors)
    rows, size = vectors["query"].shape
    none = Tokens(jnp.zeros((rows, 1, size)), jnp.ones((rows, 1), bool))
    return Outputs(
        query=vectors["query"],
        query_words=none,
        products=ProductVectors(vectors["title"], vectors["image"], vectors["product"], jnp.ones((rows, 2)) / 2),
        tokens=ProductTokens(none, none, None),
        logit_scale=jnp.float32(scale),
        logit_bias=jnp.float32(bias),
    )


class NoModel(SearchModel):
    """Stands where no term reads the model, which has none of its optional parts."""

    aligner = None


def make_context(vectors: Mapping[str, Any], batch: Mapping[str, Array], config: LossConfig, **rest: Any) -> Context:
    """A context without a model behind it; `rest` are further fields."""
    fields = {"key": None, "progress": jnp.float32(0), **rest}
    outputs = make_outputs(vectors)
    return Context(model=object.__new__(NoModel), outputs=outputs, batch=on_batch_axes(batch), config=config, **fields)


def on_batch_axes(rows: Mapping[str, Any]) -> dict[str, Array]:
    """Arrays laid out as those of a step are, also while it is traced."""
    return {name: gathered(jnp.asarray(x), "batch", *(None,) * (np.ndim(x) - 1)) for name, x in rows.items()}


def make_batch() -> dict[str, np.ndarray]:
    """Ids, weights and masks of six pairs.

    Rows 0 and 1 share a product, 2 and 3 a variant group, 4 and 5 a query; 1 lacks its title and 2 its image.
    """
    title_mask, image_present = np.ones((B, 3), bool), np.ones((B, 1), bool)
    title_mask[1], image_present[2] = False, False
    return {
        "product": np.array([1, 1, 2, 3, 4, 5], np.int32),
        "variant": np.array([-1, -1, 7, 7, -1, -1], np.int32),
        "query": np.array([1, 2, 3, 4, 5, 5], np.int32),
        "weight": np.array([1, 4, 9, 16, 0.25, 1], np.float32),
        "title_mask": title_mask,
        "image_present": image_present,
    }


def permuted(tree: Mapping[str, np.ndarray], order: np.ndarray) -> dict[str, np.ndarray]:
    """Every array with its rows in another order."""
    return {name: value[order] for name, value in tree.items()}


def together(batch: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
    """Which rows of a batch and of another (itself when None) share a product, a variant group or a query."""
    other = batch if other is None else other
    rows, columns = len(batch["product"]), len(other["product"])
    found = np.zeros((rows, columns), bool)
    for i in range(rows):
        for j in range(columns):
            variant = batch["variant"][i] == other["variant"][j] and batch["variant"][i] >= 0
            found[i, j] = variant or any(batch[name][i] == other[name][j] for name in ("product", "query"))
    return found

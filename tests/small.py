"""A model of a few thousand parameters, with every path live, and batches for it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding

from maxsearch.config import (
    Config,
    DataConfig,
    FusionConfig,
    ImageConfig,
    LossConfig,
    MeshConfig,
    ModelConfig,
    TextConfig,
)
from maxsearch.mesh import make_mesh, put_batch
from maxsearch.training.state import init_params, model_graph

TEXT = TextConfig(width=16, depth=1, heads=4, max_tokens=8)
CONFIG = Config(
    model=ModelConfig(
        dim=8,
        vocab_size=64,
        query=TEXT,
        title=TEXT,
        image=ImageConfig(size=(16, 24), patch=8, width=16, depth=2, heads=2, stem_width=8),
        fusion=FusionConfig(width=16, depth=1, heads=2),
    ),
    data=DataConfig(batch_size=8),
    loss=LossConfig(title_image=0.25, pair_power=0.5),
)


def with_model(config: Config, **changes: Any) -> Config:
    """`config` with other model fields."""
    return replace(config, model=replace(config.model, **changes))


def with_stem(config: Config, stem: str) -> Config:
    """`config` with this image stem; with convolutions also residual blocks, and colours beside them."""
    more = {"stem_blocks": 1, "colour_width": 8} if stem == "conv" else {}
    return with_model(config, image=replace(config.model.image, stem=stem, **more))


def make_batch(config: Config = CONFIG, seed: int = 0, *, whole: bool = False) -> dict[str, np.ndarray]:
    """A batch as the stream lays it out; row 0 lacks its title and row 1 its image, unless it is `whole`."""
    rng = np.random.default_rng(seed)
    B = config.data.batch_size

    def text(tokens: int) -> tuple[np.ndarray, np.ndarray]:
        lengths = rng.integers(2, tokens + 1, B)
        mask = np.arange(tokens) < lengths[:, None]
        return np.where(mask, rng.integers(1, config.model.vocab_size, (B, tokens)), 0).astype(np.int32), mask

    query_ids, query_mask = text(config.model.query.max_tokens)
    title_ids, title_mask = text(config.model.title.max_tokens)
    present = np.ones((B, config.model.images), bool)
    if not whole:
        title_mask[0] = False
        present[1] = False
    extra = {}
    if config.model.keywords:
        owned = np.where(rng.random((B, 48)) < 0.2, rng.integers(0, config.model.keywords, (B, 48)), -1)
        # A query names some of its product's keywords, every other one with a keyword that the product lacks perhaps.
        asked = np.where(rng.random((B, 16)) < 0.7, owned[:, :16], -1)
        asked[::2, 0] = rng.integers(0, config.model.keywords, len(asked[::2]))
        extra = {
            "query_keywords": asked.astype(np.int32),
            "query_covered": rng.random(B) < 0.7,
            "product_keywords": owned.astype(np.int32),
        }
    if config.uses("mlm_query", "mlm_title"):
        for name, mask in (("query_word", query_mask), ("title_word", title_mask)):
            number = np.maximum(np.cumsum(rng.random(mask.shape) < 0.7, axis=1) - 1, 0)
            extra[name] = np.where(mask, number, -1).astype(np.int32)
    return {
        **extra,
        "query_ids": query_ids,
        "query_mask": query_mask,
        "title_ids": title_ids,
        "title_mask": title_mask,
        "image": rng.integers(0, 256, (B, config.model.images, *config.model.image.size, 3), dtype=np.uint8),
        "image_present": present,
        "product": rng.integers(0, max(B // 2, 2), B).astype(np.int32),
        "variant": rng.integers(-1, 3, B).astype(np.int32),
        "query": np.arange(B, dtype=np.int32),
        "weight": rng.uniform(0.5, 4.0, B).astype(np.float32),
    }


def lively_params(config: Config, seed: int = 0) -> Any:
    """Live parameters of the config's model on the current mesh; see `lively`."""
    return lively(jax.eval_shape(lambda: init_params(config, jax.random.key(0))), seed)


def lively(shapes: Any, seed: int = 0) -> Any:
    """Parameters of these shapes on the current mesh, those that start at a constant moved too: no path is closed.

    Drawn by NumPy: the same values on every mesh, and nothing to compile.
    """
    rng = np.random.default_rng(seed)

    def draw(path: Any, x: jax.ShapeDtypeStruct) -> jax.Array:
        name = path[-1].key
        center = {"logit_scale": 2.0, "logit_bias": -3.0}.get(name, 1.0 if name.endswith("scale") else 0.0)
        value = center + rng.normal(size=x.shape) * (0.3 if len(x.shape) > 1 else 0.1)
        sharding = NamedSharding(jax.sharding.get_mesh(), x.sharding.spec)
        return jax.device_put(np.asarray(value, np.float32), sharding)

    return jax.tree.map_with_path(draw, shapes)


def forward(config: Config) -> Callable[..., Any]:
    """The model as (params, batch on the mesh, key=None) -> Outputs, to be jitted."""
    graph = model_graph(config)
    return lambda params, batch, key=None: nnx.merge(graph, params)(batch, key)


def on_mesh(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """The batch as global arrays of the current mesh."""
    return put_batch(batch, jax.sharding.get_mesh())


def set_mesh(replica: int, fsdp: int, tensor: int) -> Any:
    """Sets a mesh over as many of the simulated devices as it needs."""
    return jax.set_mesh(make_mesh(MeshConfig(replica, fsdp, tensor), jax.devices()[: replica * fsdp * tensor]))


def bits(tree: Any) -> list[bytes]:
    """The bytes of every leaf, to compare trees bit by bit."""
    leaves = jax.tree.leaves(tree)
    return [
        np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x).tobytes()
        for x in leaves
    ]

"""What a model's product vectors are made of, to explain its scores by.

B batch, E size of the compared vectors, M parts: title, image, visual words if there are any, and the rest.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def additive_parts(model: Any, batch: Mapping[str, Array]) -> Float[Array, "B M E"]:
    """The product vectors as sums: what each part's own unit vector adds, and last what the parts add together.

    A tower that sums unit vectors by weight is linear in each of them, so that a part adds what is lost when its vector
    is zero and everything else stays (ours). A tower without such a sum has all in the last part.

    Args:
      model: a SearchModel.
      batch: ids, mask, image and present, as `encode_product` takes them.
    """
    title_present, image_present = batch["mask"].any(axis=1), batch["present"].any(axis=1)
    tokens = model.product_tokens(batch["ids"], batch["mask"], batch["image"], batch["present"])
    inputs = model.fusion_inputs(tokens, title_present, image_present)
    fused, _ = model.fusion(inputs)
    names = ("title", "image", *(() if inputs.visual_vector is None else ("visual_vector",)))
    added = [fused - model.fusion(replace(inputs, **{n: jnp.zeros_like(getattr(inputs, n))}))[0] for n in names]
    scale = jax.lax.rsqrt(jnp.square(fused).sum(axis=-1, keepdims=True) + 1e-12)
    return jnp.stack([*added, fused - sum(added)], axis=1) * scale[:, None]


def product_vectors(model: Any, batch: Mapping[str, Array]) -> Float[Array, "B E"]:
    """The fused vectors of products; arguments as for `additive_parts`."""
    vectors: Float[Array, "B E"] = model.encode_product(
        batch["ids"], batch["mask"], batch["image"], batch["present"]
    ).product
    return vectors

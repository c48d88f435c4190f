"""Gradient cache: contrastive batches of any size in the activation memory of one part of them.

After GradCache (Gao et al. 2021, arXiv 2101.06983): the batch is embedded part by part without activations, the losses
between all vectors give each vector's gradient, and every part is embedded once more to carry it back. The gradient is
that of the whole batch at once, for one forward pass more. Terms that read token states (masked, matching, alignment)
are computed part by part on the way back, with their negatives from the part (ours).

B global batch, M parts, E vector size.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from maxsearch.losses.context import Context
from maxsearch.losses.total import BETWEEN_TOKENS, BETWEEN_VECTORS, total_loss
from maxsearch.mesh import spec
from maxsearch.models.fusion import Tokens
from maxsearch.models.search import Outputs, ProductTokens, ProductVectors, SearchModel

Vectors = dict[str, Array]  # query, and the fields of ProductVectors


def split_rows(tree: Any, parts: int) -> Any:
    """[B, ...] as [M, B / M, ...], each device's own rows in order, so that none moves between devices."""

    def local(tree: Any) -> Any:
        return jax.tree.map(lambda x: x.reshape(parts, len(x) // parts, *x.shape[1:]), tree)

    return jax.shard_map(local, in_specs=spec("batch"), out_specs=spec(None, "batch"))(tree)


def join_rows(tree: Any) -> Any:
    """The inverse of `split_rows`."""

    def local(tree: Any) -> Any:
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)

    return jax.shard_map(local, in_specs=spec(None, "batch"), out_specs=spec("batch"))(tree)


def vectors_of(outputs: Outputs) -> Vectors:
    """The vectors of a forward pass by name."""
    return {"query": outputs.query, **vars(outputs.products)}


def vectors_alone(model: SearchModel, vectors: Vectors) -> Outputs:
    """Outputs without token states."""
    query = vectors["query"]
    none = Tokens(query[:, None, :][:, :0], jnp.zeros_like(query[:, :0], bool))
    return Outputs(
        query=query,
        query_words=none,
        products=ProductVectors(**{name: value for name, value in vectors.items() if name != "query"}),
        tokens=ProductTokens(none, none, None),
        logit_scale=jnp.exp(model.logit_scale[...]),
        logit_bias=model.logit_bias[...],
    )


def embed(graph: Any, params: Any, batch: Any, key: Array | None, parts: int) -> Vectors:
    """The vectors of a batch, embedded part by part.

    Args:
      graph: the model's structure.
      params: its parameters.
      batch: as data/batches.py lays it out.
      key: of dropout, from which every part makes its own; None turns it off.
      parts: M.
    """

    def one(_: None, part: tuple[Any, Array]) -> tuple[None, Vectors]:
        return None, vectors_of(forward(graph, params, *part, key))

    joined: Vectors = join_rows(jax.lax.scan(one, None, (split_rows(batch, parts), jnp.arange(parts)))[1])
    return joined


def forward(graph: Any, params: Any, part: Any, number: Array, key: Array | None) -> Outputs:
    """Outputs for one part of the batch."""
    outputs: Outputs = nnx.merge(graph, params)(part, None if key is None else jax.random.fold_in(key, number))
    return outputs


def averaged_outputs(graph: Any, params: Any, batch: Any, parts: int) -> Outputs:
    """Vectors of the averaged model, without token states and without gradient."""
    return jax.lax.stop_gradient(vectors_alone(nnx.merge(graph, params), embed(graph, params, batch, None, parts)))


def loss_terms_and_gradients(
    graph: Any, params: Any, batch: Any, key: Array | None, parts: int, **known: Any
) -> tuple[Array, dict[str, Array], Vectors, Any]:
    """The loss of a batch, its terms by name, the vectors, and the gradient of the parameters.

    Args:
      graph: the model's structure.
      params: its parameters.
      batch: as data/batches.py lays it out.
      key: of dropout and of the losses; None turns dropout off.
      parts: M, a divisor of every device's rows.
      **known: the further fields of `Context`.
    """
    forward_key, loss_key = (None, None) if key is None else tuple(jax.random.split(key))
    vectors = embed(graph, params, batch, forward_key, parts)

    def contrast(params: Any, vectors: Vectors) -> tuple[Array, dict[str, Array]]:
        model = nnx.merge(graph, params)
        context = Context(model=model, outputs=vectors_alone(model, vectors), batch=batch, key=loss_key, **known)
        return total_loss(context, BETWEEN_VECTORS)

    (loss, terms), (gradients, slopes) = jax.value_and_grad(contrast, (0, 1), has_aux=True)(params, vectors)

    def again(sums: Any, part: tuple[Any, Any, Array]) -> tuple[Any, tuple[Array, dict[str, Array]]]:
        rows, pull, number = part

        def objective(params: Any) -> tuple[Array, tuple[Array, dict[str, Array]]]:
            outputs = forward(graph, params, rows, number, forward_key)
            carried = [(value * pull[name]).sum() for name, value in vectors_of(outputs).items()]
            own = {**known, "targets": None, "bank": None}  # those are for the terms between vectors
            own_key = None if loss_key is None else jax.random.fold_in(loss_key, number)
            context = Context(model=nnx.merge(graph, params), outputs=outputs, batch=rows, key=own_key, **own)
            local, terms = total_loss(context, BETWEEN_TOKENS)
            return sum(carried, start=local / parts), (local, terms)

        (_, found), more = jax.value_and_grad(objective, has_aux=True)(params)
        return jax.tree.map(jnp.add, sums, more), found

    rows, pull = split_rows((batch, slopes), parts)
    gradients, found = jax.lax.scan(again, gradients, (rows, pull, jnp.arange(parts)))
    local, local_terms = jax.tree.map(lambda x: x.mean(), found)
    return loss + local, {**terms, **local_terms}, vectors, gradients

"""The model's two encoders as plain functions of parameters and arrays, traced for export.

It needs jax and flax and no more of training, so that it runs where a converter wants an environment of its own.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx
from jax.sharding import NamedSharding

from maxsearch.config import Config, MeshConfig
from maxsearch.exporting.layout_free import Compute, inputs_read, without_layout
from maxsearch.mesh import make_mesh, spec
from maxsearch.model_files import unflatten_params
from maxsearch.models.heads import SERVED_HEADS
from maxsearch.models.search import SearchModel, Words
from maxsearch.training.state import model_graph

Arrays = Mapping[str, Any]
Shapes = Mapping[str, tuple[tuple[Any, ...], Any]]
"""Shape and dtype by name."""


def graph_of(config: Config, words: Words) -> Any:
    """The structure of the model that is served; `words` as for SearchModel."""
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        return model_graph(config, words, SERVED_HEADS)


def query_vectors(model: SearchModel, batch: Arrays) -> dict[str, Any]:
    """q [B, D] of ids and mask [B, T]."""
    return {"q": model.encode_query(batch["ids"], batch["mask"])}


def product_vectors(model: SearchModel, batch: Arrays) -> dict[str, Any]:
    """p, t, v [B, D] and weights [B, 2] of ids, mask, image and present."""
    vectors = model.encode_product(batch["ids"], batch["mask"], batch["image"], batch["present"])
    return {"p": vectors.product, "t": vectors.title, "v": vectors.image, "weights": vectors.weights}


def traced(
    graph: Any,
    compute: Callable[..., dict[str, Any]],
    params: Shapes,
    batch: Shapes,
    own: Mapping[str, Compute] | None = None,
) -> tuple[Callable[[Arrays, Arrays], dict[str, Any]], list[str]]:
    """The computation as a function of parameters and batch without layout, and the parameters that it reads.

    Args:
      graph: structure of the model.
      compute: of the model and a batch.
      params: of all parameters.
      batch: of the batch; sizes may be symbolic.
      own: as for `without_layout`.
    """
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    rows = {
        name: jax.ShapeDtypeStruct(
            shape, dtype, sharding=NamedSharding(mesh, spec("batch", *(None,) * (len(shape) - 1)))
        )
        for name, (shape, dtype) in batch.items()
    }
    with jax.set_mesh(mesh):
        trace, results = jax.make_jaxpr(
            lambda flat, b: compute(nnx.merge(graph, unflatten_params(flat)), b), return_shape=True
        )(structs(params), rows)
    replay, order = without_layout(trace, own), sorted(params)
    names = [name for name, read in zip(order, inputs_read(trace), strict=False) if read]
    tree = jax.tree.structure(results)

    def function(flat: Arrays, rows: Arrays) -> dict[str, Any]:
        # What nothing reads needs a place in the trace and no value.
        leaves = [flat.get(name) for name in order] + [rows[name] for name in sorted(rows)]
        vectors: dict[str, Any] = jax.tree.unflatten(tree, replay(*leaves))
        return vectors

    return function, names


def structs(shapes: Shapes) -> dict[str, jax.ShapeDtypeStruct]:
    """Stand-ins for arrays of these shapes."""
    return {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in shapes.items()}

"""The query and the product encoder as StableHLO programs that run without the model's code.

The batch is symbolic, and a query's number of tokens; parameters are arguments by their paths, so that a program's
file holds no weights. One file runs on CPU, TPU and CUDA.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import export as jax_export
from jax.sharding import NamedSharding

from maxsearch.config import Config, MeshConfig
from maxsearch.data.keywords import token_rows
from maxsearch.encode import Encoder, product_layout
from maxsearch.exporting.layout_free import inputs_read, without_layout
from maxsearch.exporting.probes import QUERIES, probe_products, write_probe_arrays
from maxsearch.files import write_bytes, write_json
from maxsearch.mesh import make_mesh, spec
from maxsearch.model_files import flatten_params, unflatten_params
from maxsearch.models.heads import SERVED_HEADS
from maxsearch.models.search import SearchModel
from maxsearch.serving.program import INPUTS, PRODUCT_PROGRAM, QUERY_PROGRAM, ExportedEncoder, ProgramInputs
from maxsearch.training.state import model_graph

PLATFORMS = ("cpu", "tpu", "cuda")

Arrays = Mapping[str, Any]
Shapes = Mapping[str, tuple[tuple[Any, ...], Any]]
"""Shape and dtype by name."""


def write_programs(encoder: Encoder, folder: Path) -> None:
    """Writes both programs, what they read and give, and the probes as they read them, into a model folder.

    Args:
      encoder: the model.
      folder: with its weights and tokenizer, before the manifest is written.
    """
    inputs = inputs_of(encoder)
    shapes = {name: (value.shape, value.dtype) for name, value in flatten_params(encoder.params).items()}
    graph = graph_of(encoder)
    B, T = jax_export.symbolic_shape("b, t", constraints=[f"t <= {inputs.query_tokens}"])
    text: Shapes = {"ids": ((B, T), np.int32), "mask": ((B, T), np.bool_)}
    write_bytes(folder / QUERY_PROGRAM, program(graph, query_vectors, shapes, text))
    (B,) = jax_export.symbolic_shape("b")
    layout = product_layout(encoder.config, 1)
    rows: Shapes = {name: ((B, *shape[1:]), dtype) for name, (shape, dtype) in layout.items()}
    write_bytes(folder / PRODUCT_PROGRAM, program(graph, product_vectors, shapes, rows))
    write_json(folder / INPUTS, inputs.to_json())
    programs = ExportedEncoder(folder, {}, inputs)
    write_probe_arrays(folder, programs.query_arrays(QUERIES), programs.product_arrays(probe_products()))


def inputs_of(encoder: Encoder) -> ProgramInputs:
    """What the model's programs read and give."""
    config: Config = encoder.config
    model = config.model
    return ProgramInputs(
        dim=model.dim,
        dtype=model.dtype,
        query_tokens=model.query.max_tokens,
        title_tokens=model.title.max_tokens,
        texts=model.texts,
        images=model.images,
        image_size=model.image.size,
        image_edge=config.data.image_edge,
        pad_id=int(encoder.tokenizer.pad_token_id),
    )


def graph_of(encoder: Encoder) -> Any:
    """The structure of the encoder's model."""
    config, lexicon = encoder.config, encoder.lexicon
    words = token_rows(lexicon, encoder.tokenizer, config.model.keywords) if lexicon else ()
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        return model_graph(config, words, SERVED_HEADS)


def query_vectors(model: SearchModel, batch: Arrays) -> dict[str, Any]:
    """q [B, D] of ids and mask [B, T]."""
    return {"q": model.encode_query(batch["ids"], batch["mask"])}


def product_vectors(model: SearchModel, batch: Arrays) -> dict[str, Any]:
    """p, t, v [B, D] and weights [B, 2] of ids, mask, image and present."""
    vectors = model.encode_product(batch["ids"], batch["mask"], batch["image"], batch["present"])
    return {"p": vectors.product, "t": vectors.title, "v": vectors.image, "weights": vectors.weights}


def program(graph: Any, compute: Callable[..., dict[str, Any]], params: Shapes, batch: Shapes) -> bytes:
    """A serialised program (parameters it reads by path, batch by name) -> vectors by name.

    Args:
      graph: structure of the model.
      compute: of the model and a batch.
      params: of all parameters.
      batch: of the batch, with symbolic sizes.
    """
    function, names = traced(graph, compute, params, batch)
    arguments = structs({name: params[name] for name in names}), structs(batch)
    with _without_locations():
        exported = jax_export.export(jax.jit(function), platforms=PLATFORMS)(*arguments)
        return bytes(exported.serialize())


@contextmanager
def _without_locations() -> Iterator[None]:
    """Programs that do not name the exporting machine's source files: equal models give equal bytes anywhere."""
    before = jax.config.jax_traceback_in_locations_limit
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", before)


def traced(
    graph: Any, compute: Callable[..., dict[str, Any]], params: Shapes, batch: Shapes
) -> tuple[Callable[[Arrays, Arrays], dict[str, Any]], list[str]]:
    """The computation as a function of parameters and batch without layout, and the parameters that it reads."""
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
    replay, order = without_layout(trace), sorted(params)
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

"""The query and the product encoder as StableHLO programs that run without the model's code.

The batch is symbolic, and a query's number of tokens; parameters are arguments by their paths, so that a program's
file holds no weights. One file runs on CPU, TPU and CUDA.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export as jax_export

from maxsearch.data.keywords import token_rows
from maxsearch.encode import Encoder
from maxsearch.exporting.probes import QUERIES, probe_products, write_probe_arrays
from maxsearch.exporting.trace import Shapes, graph_of, product_vectors, query_vectors, structs, traced
from maxsearch.files import write_bytes
from maxsearch.model_files import flatten_params
from maxsearch.program_files import PRODUCT_PROGRAM, QUERY_PROGRAM, ProgramInputs, write_inputs
from maxsearch.serving.program import ExportedEncoder

PLATFORMS = ("cpu", "tpu", "cuda")


def write_programs(encoder: Encoder, folder: Path) -> None:
    """Writes both programs, what they read and give, and the probes as they read them, into a model folder.

    Args:
      encoder: the model.
      folder: with its weights and tokenizer, before the manifest is written.
    """
    inputs = inputs_of(encoder)
    shapes = {name: (value.shape, value.dtype) for name, value in flatten_params(encoder.params).items()}
    config, lexicon = encoder.config, encoder.lexicon
    graph = graph_of(config, token_rows(lexicon, encoder.tokenizer, config.model.keywords) if lexicon else ())
    B, T = jax_export.symbolic_shape("b, t", constraints=[f"t <= {inputs.query_tokens}"])
    text: Shapes = {"ids": ((B, T), np.int32), "mask": ((B, T), np.bool_)}
    write_bytes(folder / QUERY_PROGRAM, program(graph, query_vectors, shapes, text))
    (B,) = jax_export.symbolic_shape("b")
    write_bytes(folder / PRODUCT_PROGRAM, program(graph, product_vectors, shapes, inputs.product_shapes(B)))
    write_inputs(folder, inputs)
    programs = ExportedEncoder(folder, {}, inputs)
    write_probe_arrays(folder, programs.query_arrays(QUERIES), programs.product_arrays(probe_products()))


def inputs_of(encoder: Encoder) -> ProgramInputs:
    """What the model's programs read and give."""
    model = encoder.config.model
    return ProgramInputs(
        dim=model.dim,
        dtype=model.dtype,
        query_tokens=model.query.max_tokens,
        title_tokens=model.title.max_tokens,
        texts=model.texts,
        images=model.images,
        image_size=model.image.size,
        image_edge=encoder.config.data.image_edge,
        pad_id=int(encoder.tokenizer.pad_token_id),
    )


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
    option = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, option)
    jax.config.update(option, 0)
    try:
        yield
    finally:
        jax.config.update(option, before)

"""An exported model as ONNX: `python -m maxsearch.exporting.onnx MODEL --out FOLDER`.

The converter, jax2onnx, wants an older orbax than training does, so this runs in an environment of its own, and
imports no more than jax, flax and optax from training's. docs/export.md says how to make one.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from jax import export as jax_export
from safetensors.numpy import load_file

from maxsearch.config import Config
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.exporting.trace import Shapes, graph_of, product_vectors, query_vectors, structs, traced
from maxsearch.files import directory_in_place, read_json
from maxsearch.manifest import FolderKind, require_replaceable, write_manifest
from maxsearch.model_files import CONFIG, MODEL, TOKENIZER, read_flat_weights, verify_model
from maxsearch.program_files import PROBE_ARRAYS, PROBE_VECTORS, read_inputs

TOLERANCE = 1e-4
"""Between ONNX Runtime and the model, whose kernels round otherwise."""

ONNX = FolderKind(
    name="maxsearch-onnx",
    what="ONNX",
    schema_version=1,
    remedy="write it with `python -m maxsearch.exporting.onnx`",
    required=("query.onnx", "product.onnx"),
    fields={"fingerprint": str},
)


def convert(model: Path, out: Path) -> dict[str, float]:
    """Writes query.onnx and product.onnx, which hold their weights, once ONNX Runtime gives the model's vectors.

    Args:
      model: what `maxsearch export` wrote.
      out: the folder; an older one there is replaced.

    Returns:
      The largest difference from the model's vectors of the probes, by kind of vector.

    Raises:
      UsageError: jax2onnx or ONNX Runtime is not installed here, or something else stands at `out`.
      MaxsearchError: the model is damaged, the converter refuses it, or vectors differ.
    """
    try:
        import onnx
        import onnxruntime
        from jax2onnx import to_onnx
    except ImportError as error:
        raise UsageError(
            f"{error.name} is not installed here: make an environment for the converter as docs/export.md says"
        ) from None
    manifest = verify_model(model)
    require_replaceable(out, [ONNX])
    inputs, flat = read_inputs(model), read_flat_weights(model)
    arrays, expected = load_file(model / PROBE_ARRAYS), load_file(model / PROBE_VECTORS)
    B, T = jax_export.symbolic_shape("b, t", constraints=[f"t <= {inputs.query_tokens}"])
    text: Shapes = {"ids": ((B, T), np.int32), "mask": ((B, T), np.bool_)}
    parts: dict[str, tuple[Any, Shapes]] = {
        "query": (query_vectors, text),
        "product": (product_vectors, inputs.product_shapes(B)),
    }
    graph = served_graph(model)
    shapes = {name: (value.shape, value.dtype) for name, value in flat.items()}
    differences = {}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # the converter leaves constants behind that nothing reads, and each would be told
    with directory_in_place(out) as draft:
        for part, (compute, batch) in parts.items():
            function, _ = traced(graph, compute, shapes, batch, {"select_n": select})
            names, results = list(batch), sorted(name for name in expected if (name == "q") == (part == "query"))

            def flat_function(*rows: Any, f: Any = function, n: Any = names, r: Any = results) -> tuple[Any, ...]:
                vectors = f(flat, dict(zip(n, rows, strict=True)))
                return tuple(vectors[name] for name in r)

            try:
                converted = to_onnx(
                    flat_function,
                    list(structs(batch).values()),
                    model_name=f"maxsearch_{part}",
                    input_names=names,
                    output_names=results,
                )
            except Exception as error:  # a converter raises whatever it stumbles over
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise MaxsearchError(f"jax2onnx does not convert the {part} encoder of {model} ({reason})") from error
            onnx.save(converted, draft / f"{part}.onnx")
            session = onnxruntime.InferenceSession(draft / f"{part}.onnx", options, providers=["CPUExecutionProvider"])
            found = session.run(results, {name: arrays[f"{part}/{name}"] for name in names})
            for name, vectors in zip(results, found, strict=True):
                differences[name] = float(np.abs(vectors - expected[name]).max())
        wrong = {name: value for name, value in differences.items() if not value <= TOLERANCE}
        if wrong:
            name = next(iter(wrong))
            raise MaxsearchError(
                f"ONNX Runtime does not give the model's {name} vectors (they differ by up to {wrong[name]:.2g}): "
                f"nothing was written to {out}"
            )
        write_manifest(draft, ONNX, {"fingerprint": manifest["fingerprint"], "difference": differences})
    return differences


def select(equation: Any, arguments: list[Any]) -> list[Any]:
    """jax's select_n; of booleans by logic, since ONNX Runtime has no Where for them."""
    which, *cases = arguments
    if len(cases) == 2 and cases[0].dtype == bool:
        return [(which & cases[1]) | (~which & cases[0])]
    return [equation.primitive.bind(*arguments, **equation.params)]


def served_graph(model: Path) -> Any:
    """The structure of an exported model."""
    value = read_json(model / CONFIG, what="model config", remedy=MODEL.remedy)
    config = Config.from_json(value, where=str(model / CONFIG))
    if not config.model.keywords:
        return graph_of(config, ())
    from maxsearch.data.keywords import KEYWORDS, Lexicon, token_rows
    from maxsearch.data.tokenize import load_tokenizer

    lexicon = Lexicon.load(model / KEYWORDS, remedy=MODEL.remedy)
    return graph_of(config, token_rows(lexicon, load_tokenizer(model / TOKENIZER), config.model.keywords))


def main() -> None:
    """Runs the command; leaves with 0 on success, 2 on bad usage, 1 on failure."""
    parser = argparse.ArgumentParser(prog="python -m maxsearch.exporting.onnx", description=__doc__)
    parser.add_argument("model", type=Path, help="an exported model")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write; an older one there is replaced")
    arguments = parser.parse_args()
    try:
        differences = convert(arguments.model, arguments.out)
    except MaxsearchError as error:
        print(f"maxsearch: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    worst = max(differences.values())
    print(f"{arguments.out}: query.onnx and product.onnx; ONNX Runtime gives the model's vectors to {worst:.1g}")


if __name__ == "__main__":
    main()

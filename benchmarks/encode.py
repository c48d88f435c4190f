"""How fast an exported model starts and answers: one JSON line for each measurement.

python -m benchmarks.encode MODEL [MODEL ...]                                # the model's code, and its programs
python -m benchmarks.encode MODEL --onnx FOLDER --python ENV/bin/python      # also ONNX Runtime, in its environment

Every contender starts in a process of its own: `model` is `maxsearch.encode.Encoder`, `program` is
`maxsearch.serving.program.ExportedEncoder`, `onnx` is ONNX Runtime behind the same tokenizer. A `start` line has the
seconds from the first import to the first query's vector; `queries` lines have milliseconds from texts to vectors, of
texts that were never seen before; `products` lines have products per second with a picture of 400 x 300 each.
"""

import argparse
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

WORDS = ("navy", "blue", "casual", "shoes", "for", "men", "women", "black", "cotton", "dress", "watch", "leather")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL")
    parser.add_argument("--onnx", type=Path, help="what python -m maxsearch.exporting.onnx wrote for the first model")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has ONNX Runtime")
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--batches", type=int, nargs="+", default=(1, 8, 32))
    parser.add_argument("--products", type=int, nargs="*", default=(1, 64))
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        measure(arguments)
        return
    jobs = [(name, model, sys.executable) for model in arguments.models for name in ("model", "program")]
    if arguments.onnx:
        jobs.append(("onnx", arguments.models[0], arguments.python))
    for name, model, python in jobs:
        words = [python, "-m", "benchmarks.encode", str(model), "--only", name, "--calls", str(arguments.calls)]
        words += ["--batches", *map(str, arguments.batches), "--products", *map(str, arguments.products)]
        words += ["--onnx", str(arguments.onnx)] if arguments.onnx else []
        subprocess.run(words, check=True)


def measure(arguments: argparse.Namespace) -> None:
    """Measures one contender in this process."""
    name, model = arguments.only, arguments.models[0]
    start = time.perf_counter()
    encode, encoder = contender(name, model, arguments.onnx)
    loaded = time.perf_counter()
    encode(["first query"])
    ready = time.perf_counter()
    weights = json.loads((model / "manifest.json").read_text())["weights"]
    about = {"benchmark": "encode", "contender": name, "model": str(model), "weights": weights}
    say(about, measured="start", load_seconds=loaded - start, first_query_seconds=ready - loaded)
    for batch in arguments.batches:
        rng = np.random.default_rng(batch)
        calls = [[" ".join(rng.choice(WORDS, 4)) + f" {i} {j}" for j in range(batch)] for i in range(arguments.calls)]
        encode([f"warm {query}" for query in calls[0]])
        taken = np.array([timed(encode, queries) for queries in calls]) * 1000
        p50, p99 = np.percentile(taken, (50, 99))
        say(about, measured="queries", batch=batch, p50_ms=p50, p99_ms=p99, queries_per_second=1000 * batch / p50)
    for batch in arguments.products if name != "onnx" else ():
        products = drawn_products(batch)
        list(encoder.encode_products(products, batch))
        taken = np.array([timed(lambda p: list(encoder.encode_products(p, len(p))), products) for _ in range(30)])
        p50 = float(np.median(taken))
        say(about, measured="products", batch=batch, p50_ms=1000 * p50, products_per_second=batch / p50)


def contender(name: str, model: Path, onnx: Path | None) -> tuple[Callable[[list[str]], Any], Any]:
    """What turns queries into vectors, and the encoder behind it where there is one."""
    if name == "model":
        from maxsearch.encode import Encoder

        encoder: Any = Encoder.from_model(model)
    elif name == "program":
        from maxsearch.serving.program import ExportedEncoder

        encoder = ExportedEncoder.load(model)
    else:
        assert onnx is not None
        return onnx_runtime(model, onnx), None
    return encoder.encode_queries, encoder


def onnx_runtime(model: Path, folder: Path) -> Callable[[list[str]], Any]:
    """Queries to vectors by ONNX Runtime on one thread."""
    import onnxruntime
    from tokenizers import Tokenizer

    from maxsearch.data.text_rows import TextRows
    from maxsearch.program_files import read_inputs

    inputs = read_inputs(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(folder / "query.onnx", options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(model / "tokenizer" / "tokenizer.json"))
    rows = TextRows(tokenizer, inputs.query_tokens, inputs.pad_id)

    def encode(queries: list[str]) -> Any:
        ids, mask = rows(queries)
        return session.run(["q"], {"ids": ids, "mask": mask})[0]

    return encode


def drawn_products(count: int) -> Sequence[Any]:
    """Products with a title and a JPEG of 400 x 300 pixels."""
    from PIL import Image

    from maxsearch.data.records import Product

    rng = np.random.default_rng(0)
    products = []
    for number in range(count):
        stream = io.BytesIO()
        pixels = np.kron(rng.integers(0, 255, (20, 15, 3), np.uint8), np.ones((20, 20, 1), np.uint8))
        Image.fromarray(pixels).save(stream, format="JPEG")
        products.append(Product(str(number), " ".join(rng.choice(WORDS, 6)), (stream.getvalue(),)))
    return products


def timed(work: Callable[[Any], object], argument: Any) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    work(argument)
    return time.perf_counter() - start


def say(about: dict[str, Any], **figures: Any) -> None:
    """Prints one line."""
    rounded = {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in figures.items()}
    print(json.dumps(about | rounded), flush=True)


if __name__ == "__main__":
    main()

"""What length buckets save, and what they cost: one JSON line per number of padded lengths.

python benchmarks/buckets.py fashion_small --data DATA
python benchmarks/buckets.py fashion_small --data DATA --tokens 16 32 --depth 4

Every step of a window of batches is timed, without the stream; `plan_ms` is what sorting a window costs,
`count_seconds` what counting the tokens of all texts costs once, `load_ms` what a batch costs the stream in one thread.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from maxsearch.config import Config
from maxsearch.data.buckets.lengths import Lengths
from maxsearch.data.buckets.order import make_buckets
from maxsearch.data.sources import ExampleSource
from maxsearch.data.tokenize import TextEncoder
from maxsearch.mesh import make_mesh, put_batch
from maxsearch.presets import load_preset
from maxsearch.training.bucketing import text_encoders
from maxsearch.training.opening import open_source, open_stream
from maxsearch.training.run_folder import settle_tokenizer
from maxsearch.training.stages import optimizer_of
from maxsearch.training.state import init_state
from maxsearch.training.step import make_step


def sized(config: Config, arguments: argparse.Namespace) -> Config:
    """The preset with other text towers."""
    query, title = config.model.query, config.model.title
    if arguments.tokens:
        query, title = (replace(text, max_tokens=n) for text, n in zip((query, title), arguments.tokens, strict=True))
    if arguments.depth is not None:
        query, title = (replace(text, depth=arguments.depth) for text in (query, title))
    data = replace(config.data, batch_size=arguments.batch_size or config.data.batch_size)
    return replace(config, model=replace(config.model, query=query, title=title), data=data)


def measure(
    config: Config, source: ExampleSource, tokenizer: Any, encoders: tuple[TextEncoder, TextEncoder], limit: int
) -> dict[str, Any]:
    started = time.perf_counter()
    lengths = Lengths.count(source, *encoders, config.model.texts)
    count_seconds = time.perf_counter() - started
    found = make_buckets(source, lengths, config.data.batch_size, config.seed, limit=max(limit, 1))
    started = time.perf_counter()
    found.padding(7)
    plan_seconds = time.perf_counter() - started

    mesh = jax.sharding.get_mesh()
    config = replace(config, data=replace(config.data, threads=1, prefetch=1))
    with open_stream(source, tokenizer, config, None, found if limit else None) as stream:
        next(stream)
        started = time.perf_counter()
        batches = [next(stream) for _ in range(found.window)]
        load_seconds = (time.perf_counter() - started) / len(batches)
    optimizer = optimizer_of(config, 0)
    state, step, horizon = init_state(config, optimizer), make_step(config, optimizer), jnp.float32(config.train.steps)
    shapes = {(batch["query_ids"].shape[1], batch["title_ids"].shape[1]): batch for batch in batches}
    started = time.perf_counter()
    for batch in shapes.values():
        state, metrics = step(state, put_batch(batch, mesh), horizon)
        jax.block_until_ready(metrics)
    compile_seconds = time.perf_counter() - started
    seconds = 0.0
    for batch in batches:
        whole = put_batch(batch, mesh)
        jax.block_until_ready(whole)
        started = time.perf_counter()
        state, metrics = step(state, whole, horizon)
        jax.block_until_ready((state, metrics))
        seconds += time.perf_counter() - started
    tokens, places = 0, 0
    for batch in batches:
        for name in ("query_mask", "title_mask"):
            tokens, places = tokens + int(batch[name].sum()), places + batch[name].size
    return {
        "benchmark": "buckets",
        "preset": config.name,
        "lengths": sorted(shapes),
        "padding": round(1 - tokens / places, 3),
        "step_ms": round(1e3 * seconds / len(batches), 1),
        "compile_seconds": round(compile_seconds, 1),
        "count_seconds": round(count_seconds, 2),
        "plan_ms": round(1e3 * plan_seconds, 1),
        "load_ms": round(1e3 * load_seconds, 1),
        "batch_size": config.data.batch_size,
        "text_depth": config.model.title.depth,
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset")
    parser.add_argument("--data", required=True, help="what `train --data` takes, one dataset")
    parser.add_argument("--buckets", type=int, nargs="+", default=[0, 2, 4, 8], help="padded lengths; 0 for none")
    parser.add_argument("--tokens", type=int, nargs=2, help="that the query and the title tower read")
    parser.add_argument("--depth", type=int, help="blocks of both text towers")
    parser.add_argument("--batch-size", type=int)
    arguments = parser.parse_args()
    source, config = open_source(arguments.data, sized(load_preset(arguments.preset), arguments))
    with tempfile.TemporaryDirectory() as folder, jax.set_mesh(make_mesh(config.mesh)):
        tokenizer = settle_tokenizer(Path(folder), config, source)
        for limit in arguments.buckets:
            # Fresh encoders, which have no text counted yet.
            print(json.dumps(measure(config, source, tokenizer, text_encoders(tokenizer, config), limit)), flush=True)


if __name__ == "__main__":
    main()

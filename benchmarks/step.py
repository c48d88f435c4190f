"""Time of the training step alone (no stream), as one JSON line.

python benchmarks/step.py                       # the fashion preset
python benchmarks/step.py quickstart --steps 30
python benchmarks/step.py methods/aligncmss --stage 2
"""

import argparse
import json
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from maxsearch.config import Config
from maxsearch.data.keywords import PRODUCT_KEYWORDS, QUERY_KEYWORDS
from maxsearch.mesh import make_mesh, put_batch
from maxsearch.presets import load_preset
from maxsearch.training.stages import optimizer_of
from maxsearch.training.state import init_state
from maxsearch.training.step import make_step

STATISTICS = {"min": min, "median": statistics.median, "max": max}


def random_batch(config: Config) -> dict[str, np.ndarray]:
    """A batch of the stream's shapes, texts and keywords half full, one token a word."""
    rng = np.random.default_rng(0)
    B, model = config.data.batch_size, config.model
    batch: dict[str, np.ndarray] = {}
    for name, T, fields in (("query", model.query.max_tokens, 1), ("title", model.title.max_tokens, model.texts)):
        mask = np.tile(np.arange(T) < T / 2, (B, fields))
        batch[f"{name}_ids"] = rng.integers(5, model.vocab_size, mask.shape, dtype=np.int32)
        batch[f"{name}_mask"] = mask
        batch[f"{name}_word"] = np.where(mask, np.arange(mask.shape[1], dtype=np.int32), -1)
    if model.keywords:
        for name, size in (("query", QUERY_KEYWORDS), ("product", PRODUCT_KEYWORDS)):
            ids = rng.integers(0, model.keywords, (B, size), dtype=np.int32)
            batch[f"{name}_keywords"] = np.where(np.arange(size) < size / 2, ids, -1)
        batch["query_covered"] = np.ones(B, bool)
    return batch | {
        "image": rng.integers(0, 256, (B, model.images, *model.image.size, 3), dtype=np.uint8),
        "image_present": np.ones((B, model.images), bool),
        "product": np.arange(B, dtype=np.int32),
        "variant": np.full(B, -1, np.int32),
        "query": np.arange(B, dtype=np.int32),
        "weight": np.ones(B, np.float32),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", nargs="?", default="fashion")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--stage", type=int, default=1, help="of a preset with stages, from 1")
    arguments = parser.parse_args()
    config, stage = load_preset(arguments.preset), arguments.stage - 1
    # As many tokens as a tokenizer would give; which ones does not matter for time.
    words = tuple((number % config.model.vocab_size,) for number in range(config.model.keywords))
    mesh = make_mesh(config.mesh)
    with jax.set_mesh(mesh):
        optimizer = optimizer_of(config, stage)
        state = init_state(config, optimizer)
        step = make_step(config, optimizer, words, stage)
        batch = put_batch(random_batch(config), mesh)
        horizon = jnp.float32(config.train.steps)
        started = time.perf_counter()
        state, metrics = step(state, batch, horizon)
        jax.block_until_ready(metrics)
        compile_seconds = time.perf_counter() - started
        seconds = []
        for _ in range(arguments.steps):
            started = time.perf_counter()
            state, metrics = step(state, batch, horizon)
            jax.block_until_ready((state, metrics))
            seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds)
    result = {
        "benchmark": "step",
        "preset": config.name,
        "stage": config.stages[stage].name if config.stages else None,
        "examples_per_second": round(config.data.batch_size / median, 1),
        "step_ms": {name: round(1e3 * f(seconds), 1) for name, f in STATISTICS.items()},
        "first_step_seconds": round(compile_seconds, 1),
        "batch_size": config.data.batch_size,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "dtype": config.model.dtype,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

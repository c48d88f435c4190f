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
from maxsearch.cpu import settle_memory
from maxsearch.data.layout import batch_layout
from maxsearch.mesh import make_mesh, put_batch
from maxsearch.planning.jobs import stand_in_words
from maxsearch.presets import load_preset
from maxsearch.training.stages import optimizer_of
from maxsearch.training.state import init_state
from maxsearch.training.step import make_step

STATISTICS = {"min": min, "median": statistics.median, "max": max}


def random_batch(config: Config) -> dict[str, np.ndarray]:
    """A batch of the stream's layout, texts and keywords half full, one token a word."""
    rng = np.random.default_rng(0)
    B, model = config.data.batch_size, config.model

    def draw(name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        if name in ("product", "query"):
            return np.arange(B, dtype=np.int32)
        if name == "variant":
            return np.full(B, -1, np.int32)
        if dtype is np.float32 or name in ("image_present", "query_covered"):
            return np.ones(shape, dtype)
        if name == "image":
            return rng.integers(0, 256, shape, dtype=np.uint8)
        tokens = {"query": model.query.max_tokens, "title": model.title.max_tokens}.get(name.split("_")[0], shape[1])
        width = shape[1] if name.endswith("_keywords") else tokens
        full = np.arange(shape[1]) % width < width / 2
        if name.endswith("_mask"):
            return np.broadcast_to(full, shape).copy()
        if name.endswith("_word"):
            return np.broadcast_to(np.where(full, np.arange(shape[1]), -1), shape).astype(np.int32)
        if name.endswith("_keywords"):
            return np.where(full, rng.integers(0, model.keywords, shape), -1).astype(np.int32)
        return rng.integers(5, model.vocab_size, shape, dtype=np.int32)

    return {name: draw(name, *each) for name, each in batch_layout(config).items()}


def main() -> None:
    settle_memory()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", nargs="?", default="fashion")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--stage", type=int, default=1, help="of a preset with stages, from 1")
    arguments = parser.parse_args()
    config, stage = load_preset(arguments.preset), arguments.stage - 1
    words = stand_in_words(config)
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

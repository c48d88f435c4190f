"""Time of the training step alone (no stream), as one JSON line.

python benchmarks/step.py                       # the fashion preset
python benchmarks/step.py quickstart --steps 30
"""

import argparse
import json
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from maxsearch.config import Config
from maxsearch.mesh import make_mesh, put_batch
from maxsearch.presets import load_preset
from maxsearch.training.optim import make_optimizer
from maxsearch.training.state import init_state
from maxsearch.training.step import make_step

STATISTICS = {"min": min, "median": statistics.median, "max": max}


def random_batch(config: Config) -> dict[str, np.ndarray]:
    """A batch of the stream's shapes, texts half full."""
    rng = np.random.default_rng(0)
    B, model = config.data.batch_size, config.model
    batch: dict[str, np.ndarray] = {}
    for name, text in (("query", model.query), ("title", model.title)):
        batch[f"{name}_ids"] = rng.integers(5, model.vocab_size, (B, text.max_tokens), dtype=np.int32)
        batch[f"{name}_mask"] = np.broadcast_to(np.arange(text.max_tokens) < text.max_tokens / 2, (B, text.max_tokens))
    return batch | {
        "image": rng.integers(0, 256, (B, *model.image.size, 3), dtype=np.uint8),
        "image_present": np.ones(B, bool),
        "product": np.arange(B, dtype=np.int32),
        "variant": np.full(B, -1, np.int32),
        "query": np.arange(B, dtype=np.int32),
        "weight": np.ones(B, np.float32),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", nargs="?", default="fashion")
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    config = load_preset(arguments.preset)
    mesh = make_mesh(config.mesh)
    with jax.set_mesh(mesh):
        optimizer = make_optimizer(config.optim)
        state = init_state(config, optimizer)
        step = make_step(config, optimizer)
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

"""Weak scaling on paper: what a chip sends in a step as chips and batch grow together, beside the least it could send.

python benchmarks/scaling.py                        # large on 8, 64, 512 and 4,096 chips, 128 examples on each
python benchmarks/scaling.py base --chip v5e --grids 2x4 8x8 --per-chip 64

Every step is compiled for its chips (extra `tpu`) and its collectives are read from the program; nothing runs. One JSON
line comes for each grid. The least, by the method: with FSDP over f chips and r replicas of n = f r chips, of S numbers
stored split, T of them in blocks that the backward pass computes again, and W whole, c bytes each in the computation,

  weights    (S + T) c (f - 1) / f         gathered when they are used
  gradients  S c (f - 1) / f + 2 S c / f (r - 1) / r + 2 W c (n - 1) / n
  vectors    (n - 1) b E (c + 4)           per contrastive term: b vectors of each chip pass every other, and their
                                           gradient in float32 comes home
"""

import argparse
import json
import os
from dataclasses import replace
from math import prod
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the chips are not here

import jax
import jax.numpy as jnp

from maxsearch.config import Config, MeshConfig
from maxsearch.config.loss import CONTRASTIVE
from maxsearch.mesh import make_mesh
from maxsearch.planning.jobs import Train
from maxsearch.planning.plan import make_plan
from maxsearch.planning.search import with_batch
from maxsearch.planning.topology import Topology, devices_of, parse
from maxsearch.presets import load_preset
from maxsearch.training.optim import path_name
from maxsearch.training.stages import optimizer_of
from maxsearch.training.state import abstract_state

GRIDS = {"v5p": ["2x2x2", "4x4x4", "8x8x8", "16x16x16"], "v5e": ["2x4", "8x8"]}


def least(config: Config, devices: list[jax.Device]) -> dict[str, int]:
    """Bytes that a chip sends at least, by what they are."""
    mesh = make_mesh(config.mesh, devices)
    n, f, r = mesh.size, mesh.shape["fsdp"], mesh.shape["replica"]
    with jax.set_mesh(mesh):
        leaves = jax.tree.leaves_with_path(abstract_state(config, optimizer_of(config, 0)).params)
    stored = {path_name(path): x.size for path, x in leaves if "fsdp" in str(x.sharding.spec)}
    split, whole = sum(stored.values()), sum(x.size for _, x in leaves) - sum(stored.values())
    again = sum(size for path, size in stored.items() if "blocks/" in path and config.model.remat != "none")
    c = jnp.dtype(config.model.dtype).itemsize
    terms = sum(config.loss.weights[name] > 0 for name in CONTRASTIVE)
    return {
        "weights": (split + again) * c * (f - 1) // f,
        "gradients": split * c * (f - 1) // f + 2 * split * c // f * (r - 1) // r + 2 * whole * c * (n - 1) // n,
        "vectors": terms * (n - 1) * (config.data.batch_size // n) * config.model.dim * (c + 4),
    }


def measured(config: Config, topology: Topology) -> dict[str, Any]:
    """One line of the table."""
    devices = devices_of(topology)
    plan = make_plan(config, topology, devices, Train())
    sent = {each.kind: each.wire_bytes for each in plan.traffic}
    minimum = least(config, devices)
    vectors = sent.get("collective-permute", 0)
    return {
        "benchmark": "scaling",
        "preset": config.name,
        "topology": topology.name,
        "chips": topology.chips,
        "mesh": plan.mesh,
        "batch_size": config.data.batch_size,
        "sent_bytes": sent,
        "least_bytes": minimum,
        "ratio": round(sum(sent.values()) / sum(minimum.values()), 3),
        "ratio_vectors": round(vectors / minimum["vectors"], 3) if config.loss.ring else None,
        "ratio_rest": round((sum(sent.values()) - vectors) / (minimum["weights"] + minimum["gradients"]), 3)
        if config.loss.ring
        else None,
        "peak_bytes": plan.memory.peak if plan.memory else None,
        "fits": plan.fits,
        "lower_bound_ms": {name: round(value, 2) for name, value in plan.bounds.items()},
        "compile_seconds": round(plan.compile_seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", nargs="?", default="large")
    parser.add_argument("--chip", default="v5p")
    parser.add_argument("--grids", nargs="+", help="chips along each axis; by default 8, 64, 512 and 4,096 chips")
    parser.add_argument("--per-chip", type=int, default=128, help="examples on each chip")
    parser.add_argument("--fsdp", type=int, default=16, help="chips at most that parameters are split over")
    arguments = parser.parse_args()
    for grid in arguments.grids or GRIDS[arguments.chip]:
        chips = prod(map(int, grid.split("x")))
        config = with_batch(load_preset(arguments.preset), chips * arguments.per_chip)
        config = replace(config, mesh=MeshConfig(fsdp=min(chips, arguments.fsdp)))
        print(json.dumps(measured(config, parse(f"{arguments.chip}:{grid}"))), flush=True)


if __name__ == "__main__":
    main()

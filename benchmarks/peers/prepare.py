"""What both sides start from: the first parameters, the batches, and the proof that the two models are one."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.jax_step import JaxStep
from benchmarks.peers.parity import by_path, compare
from benchmarks.peers.settings import Options
from benchmarks.peers.weights import group_settings, twin_batch, twin_leaves
from benchmarks.step import random_batch
from maxsearch.config import Config

ROWS = 8  # of the batch on which both sides are compared


def sized(config: Config, batch_size: int) -> Config:
    """The config with another batch size."""
    return replace(config, data=replace(config.data, batch_size=batch_size))


def varied(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The batch with every case: row 0 lacks its title, row 1 its image, 2 and 3 share a product, 4 and 5 a variant."""
    batch = {name: value.copy() for name, value in batch.items()}
    batch["title_mask"][0] = False
    batch["image_present"][1] = False
    batch["product"][3] = batch["product"][2]
    batch["variant"][4:6] = 7
    batch["weight"][:] = np.linspace(0.5, 2.0, len(batch["weight"]))
    return batch


def prepare(folder: Path, config: Config, batch_sizes: Sequence[int], options: Options) -> dict[str, Any]:
    """Writes start.npz, groups.json and each side's batches, and compares both sides; see `compare`.

    Raises:
      MaxsearchError: the two sides do not compute the same.
    """
    trainer = JaxStep(config)
    leaves = twin_leaves(by_path(trainer.state.params), config)
    np.savez(folder / "start.npz", **{name: leaf.value for name, leaf in leaves.items()})
    (folder / "groups.json").write_text(json.dumps(group_settings(leaves, config.optim)))
    for size in batch_sizes:
        batch = random_batch(sized(config, size))
        np.savez(folder / f"jax-{size}.npz", **batch)
        np.savez(folder / f"torch-{size}.npz", **twin_batch(batch, config))
    return compare(trainer, config, varied(random_batch(sized(config, ROWS))), options)

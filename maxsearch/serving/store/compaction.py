"""A snapshot of a store as a new index, without embedding anything again."""

from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from maxsearch.errors import MaxsearchError
from maxsearch.serving.index_writing import write_index
from maxsearch.serving.items import items_table
from maxsearch.serving.pictures import packed
from maxsearch.serving.scann_index import MIN_ITEMS
from maxsearch.serving.store.snapshot import Snapshot
from maxsearch.serving.vectors import VectorWriter


def compacted(snapshot: Snapshot, draft: Path, joined: Path) -> dict[str, Any]:
    """Makes an index of a snapshot in an empty folder.

    Args:
      snapshot: what it shall hold.
      draft: the folder.
      joined: where all vectors are written on the way, on the same file system.

    Returns:
      The manifest.

    Raises:
      MaxsearchError: the snapshot holds no product, or the recall is below what its index was built to have.
    """
    if len(snapshot) == 0:
        raise MaxsearchError(
            "every product of the store was deleted, and an index holds at least one: upsert one before you compact"
        )
    index, delta = snapshot.index, snapshot.delta
    alive, fresh = ~delta.dead, np.flatnonzero(delta.live).tolist()
    with VectorWriter(joined, index.manifest["dim"]) as writer:
        for start, block in index.vectors.blocks():
            writer.extend(block[alive[start : start + len(block)]])
        writer.extend(delta.vectors[fresh])
    tables = [index.items.table.filter(alive), items_table(delta.item(row) for row in fresh)]
    kept = index.pictures
    pictures = None if kept is None else (kept.row(row) for row in np.flatnonzero(alive).tolist())
    late = (packed(delta.images(row)) for row in fresh)
    options = index.options
    if len(snapshot) < MIN_ITEMS and options.kind == "scann":
        options = replace(options, kind="auto")
    return write_index(
        draft,
        tables,
        joined,
        index.probes(),
        index.model_fingerprint,
        options,
        pictures=None if pictures is None else chain(pictures, late),
    )

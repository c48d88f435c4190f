"""New generations of a store: built of a catalogue, or copied from an index folder."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from maxsearch.data.records import Product
from maxsearch.manifest import read_manifest
from maxsearch.progress import Progress
from maxsearch.serving.build import EmbeddingJob
from maxsearch.serving.encoder import EmbeddingModel
from maxsearch.serving.index import INDEX, IndexOptions, open_index
from maxsearch.serving.store.generations import KEEP, Generation, StoreFolder

PARTS = "parts"


def build_generation(
    encoder: EmbeddingModel,
    products: Iterable[Product],
    store: Path,
    options: IndexOptions | None = None,
    *,
    queries: Float32[np.ndarray, "Q D"] | None = None,
    as_of: float | None = None,
    keep: int = KEEP,
    progress: Progress | None = None,
    batch_size: int = 256,
) -> Generation:
    """Embeds the products into a new generation of a store, which is made when absent, and serves it.

    A killed build goes on where it was when it is run again.

    Args:
      encoder: the model; its fingerprint goes into the manifest.
      products: the catalogue, with ids that differ.
      store: the store.
      options: how to make the index.
      queries: unit vectors of shoppers' queries to measure recall with; titles of the catalogue when None.
      as_of: as for `publish_folder`.
      keep: as for `publish_folder`.
      progress: reports products read.
      batch_size: products embedded at a time.

    Raises:
      UsageError: too few products for ScaNN, a folder that is no store stands at `store`, or another build is running.
      MaxsearchError: no products, an id that stands twice, a vector that is not finite, too low a recall, or another
        model than that of writes that would be applied.
    """
    folder = StoreFolder(store)
    folder.require_ours()
    with EmbeddingJob(store / PARTS) as job:
        embedded = job.embed(encoder, products, progress=progress, batch_size=batch_size)
        generation = folder.add(
            lambda draft: job.write(encoder, embedded, draft, options or IndexOptions(), queries),
            made_by="build",
            as_of=as_of,
            keep=keep,
        )
        job.finished = True
    return generation


def publish_folder(store: Path, folder: Path, *, as_of: float | None = None, keep: int = KEEP) -> Generation:
    """Copies an index folder into a store, which is made when absent, and serves it.

    Args:
      store: the store.
      folder: what `build_index` wrote.
      as_of: writes to the store up to this time, in seconds since 1970, are in the catalogue that it was built of; all
        others are applied to it.
      keep: how many generations are kept beside it.

    Raises:
      UsageError: a folder that is no store stands at `store`.
      MaxsearchError: no index, or one that was damaged or is of another model than writes that would be applied to it.
    """
    read_manifest(folder, INDEX)

    def copy(draft: Path) -> dict[str, Any]:
        shutil.copytree(folder, draft, dirs_exist_ok=True)
        for path in draft.rglob("*"):
            if path.is_file():
                with path.open("rb") as stream:
                    os.fsync(stream.fileno())
        return open_index(draft).manifest

    return StoreFolder(store).add(copy, made_by="publish", as_of=as_of, keep=keep)

"""From a catalogue to an index folder: the embedding job, and what is made of its parts."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from maxsearch.data.records import Product
from maxsearch.errors import MaxsearchError
from maxsearch.files import directory_in_place, locked
from maxsearch.manifest import require_replaceable
from maxsearch.progress import Progress
from maxsearch.serving.embedding import Embedded, Share, embed
from maxsearch.serving.encoder import EmbeddingModel
from maxsearch.serving.index import INDEX, IndexOptions
from maxsearch.serving.index_writing import write_index
from maxsearch.serving.items import Items
from maxsearch.serving.vectors import VectorWriter

JOINED = "vectors.npy"


def work_folder(out: Path) -> Path:
    """Where the embedding job of a folder keeps its parts until the folder stands."""
    return out.absolute().with_name(f".{out.name}.parts")


def build_index(
    encoder: EmbeddingModel,
    products: Iterable[Product],
    out: Path,
    options: IndexOptions | None = None,
    *,
    queries: Float32[np.ndarray, "Q D"] | None = None,
    progress: Progress | None = None,
    batch_size: int = 256,
) -> dict[str, Any]:
    """Embeds the products and writes an index folder, which appears whole or not at all.

    A killed build goes on where it was when it is run again. Memory stays bounded by a part of the catalogue, the ids,
    and (for ScaNN) one copy of the vectors.

    Args:
      encoder: the model; its fingerprint goes into the manifest.
      products: the catalogue, with ids that differ.
      out: the folder; an older index folder there is replaced.
      options: how to make it.
      queries: unit vectors of shoppers' queries to measure recall with; titles of the catalogue when None.
      progress: reports products read.
      batch_size: products embedded at a time.

    Returns:
      The manifest.

    Raises:
      UsageError: too few products for ScaNN, another folder stands at `out`, or another build of it is running.
      MaxsearchError: no products, an id that stands twice, a vector that is not finite, or too low a recall.
    """
    require_replaceable(out, [INDEX])
    with EmbeddingJob(work_folder(out)) as job:
        embedded = job.embed(encoder, products, progress=progress, batch_size=batch_size)
        with directory_in_place(out) as draft:
            manifest = job.write(encoder, embedded, draft, options or IndexOptions(), queries)
        job.finished = True
    return manifest


class EmbeddingJob:
    """The parts of one catalogue in a folder that one process works in; use as a context manager.

    Attributes:
      finished: whether the parts are of no more use; they are removed at the end.
    """

    def __init__(self, work: Path) -> None:
        self.finished = False
        self._work = work
        self._lock = locked(work, flag="the embedding job")

    def __enter__(self) -> "EmbeddingJob":
        self._lock.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self.finished or not any(self._work.glob("part-*")):
            shutil.rmtree(self._work, ignore_errors=True)
        self._lock.__exit__(None, None, None)

    def embed(
        self,
        encoder: EmbeddingModel,
        products: Iterable[Product],
        *,
        progress: Progress | None = None,
        batch_size: int = 256,
    ) -> Embedded:
        """Embeds what is not embedded yet; see `embed`."""
        tracked = products if progress is None else progress.track(products, "embedding products")
        return embed(encoder, tracked, self._work, batch_size=batch_size)

    def write(
        self,
        encoder: EmbeddingModel,
        embedded: Embedded,
        draft: Path,
        options: IndexOptions,
        queries: Float32[np.ndarray, "Q D"] | None = None,
    ) -> dict[str, Any]:
        """Makes an index of the parts in an empty folder; see `write_index`."""
        joined = self._work / JOINED
        with VectorWriter(joined, encoder.dim) as writer:
            for vectors in embedded.vectors():
                writer.extend(vectors)
        if queries is not None and not np.isfinite(queries).all():
            raise MaxsearchError(
                "the model gives one of --queries a vector that is not finite: use a model from an earlier step"
            )
        probes = title_probes(encoder, embedded, joined) if queries is None else queries
        return write_index(
            draft, embedded.tables(), joined, probes, encoder.fingerprint, options, pictures=embedded.pictures()
        )


def embed_share(
    encoder: EmbeddingModel,
    products: Iterable[Product],
    work: Path,
    share: Share,
    *,
    progress: Progress | None = None,
    batch_size: int = 256,
) -> Embedded:
    """Embeds one host's share of a catalogue into the folder of the job, where a later build finds it.

    Args:
      encoder: the model.
      products: the whole catalogue.
      work: the job's folder, on a file system that all hosts share.
      share: which parts.
      progress: reports products read.
      batch_size: products embedded at a time.
    """
    with locked(work / f"share-{share.number}-of-{share.of}", flag="the embedding job"):
        tracked = products if progress is None else progress.track(products, "embedding products")
        return embed(encoder, tracked, work, share=share, batch_size=batch_size)


def title_probes(encoder: EmbeddingModel, embedded: Embedded, joined: Path) -> Float32[np.ndarray, "P D"]:
    """Titles spread evenly over the catalogue, through the query encoder; product vectors where no title says a thing.

    Titles lie where shoppers' queries lie; product vectors would be too easy to find.
    """
    rows = probe_rows(embedded.count)
    titles: list[str] = []
    start = 0
    for table in embedded.tables():
        here = rows[(rows >= start) & (rows < start + len(table))] - start
        titles += [item.title for item in Items(table).take(here.tolist()) if item.title.strip()]
        start += len(table)
    probes = np.asarray(encoder.encode_queries(titles), dtype=np.float32) if titles else np.zeros((0, encoder.dim))
    finite = np.isfinite(probes).all(axis=1)  # a query that the model cannot embed is told by whoever searches for it
    if finite.any():
        return probes[finite]
    return np.array(np.load(joined, mmap_mode="r")[rows])


def probe_rows(count: int, probes: int = 256) -> Int64[np.ndarray, " P"]:
    """Rows spread evenly over the catalogue, at most `probes` of them."""
    return np.unique(np.linspace(0, count - 1, min(count, probes)).astype(np.int64))

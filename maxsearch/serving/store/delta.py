"""The writes since a generation, held in memory and searched exactly.

Letters: Q queries, N items of the generation, M products put in since, D vector size, K results.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float32

from maxsearch.serving.index import LoadedIndex
from maxsearch.serving.items import Item
from maxsearch.serving.nearest import Rows, Scores, largest, no_results
from maxsearch.serving.store.writes import Upsert, Write


@dataclass
class _Heap:
    """Products in the order they came; it only grows, so deltas that saw less of it stay as they are."""

    vectors: Float32[np.ndarray, "capacity D"]
    items: list[Item] = field(default_factory=list)
    images: list[tuple[bytes, ...]] = field(default_factory=list)

    def extend(self, upserts: tuple[Upsert, ...]) -> None:
        """Appends products."""
        used, needed = len(self.items), len(self.items) + len(upserts)
        if needed > len(self.vectors):
            grown = np.empty((max(needed, 2 * len(self.vectors)), self.vectors.shape[1]), np.float32)
            grown[:used] = self.vectors[:used]
            self.vectors = grown
        for row, one in enumerate(upserts, used):
            self.vectors[row] = one.vector
        self.items.extend(one.item for one in upserts)
        self.images.extend(one.images for one in upserts)


@dataclass(frozen=True)
class Delta:
    """What changed since a generation; never changed itself, `after` gives the next one.

    Attributes:
      sequence: of the last write that it holds or knows to be in the generation.
      dead: which rows of the generation were overwritten or deleted [N].
      dead_count: how many those are.
      vectors: products put in [M, D].
      live: which of them were neither overwritten nor deleted since [M].
      rows: row in `vectors` by product id, of the live ones.
    """

    sequence: int
    dead: Bool[np.ndarray, " N"]
    dead_count: int
    vectors: Float32[np.ndarray, "M D"]
    live: Bool[np.ndarray, " M"]
    rows: dict[str, int]
    _heap: _Heap

    @classmethod
    def empty(cls, index: LoadedIndex) -> "Delta":
        """Nothing has changed."""
        heap = _Heap(np.empty((0, index.manifest["dim"]), np.float32))
        dead = np.zeros(len(index.items), bool)
        return cls(0, dead, 0, heap.vectors, np.zeros(0, bool), {}, heap)

    @property
    def changed(self) -> bool:
        """Whether a search sees anything of it."""
        return self.dead_count > 0 or len(self.rows) > 0

    def item(self, row: int) -> Item:
        """A product put in, by its row in `vectors`."""
        return self._heap.items[row]

    def images(self, row: int) -> tuple[bytes, ...]:
        """Its pictures."""
        return self._heap.images[row]

    def after(self, writes: Sequence[Write], index: LoadedIndex) -> "Delta":
        """The delta with more writes, none of which makes another void. Not to be called by two threads at once."""
        heap, count = self._heap, len(self.vectors)
        if len(heap.items) != count:  # another delta went on from here
            heap = _Heap(self.vectors.copy(), heap.items[:count], heap.images[:count])
        upserts = tuple(one for write in writes for one in write.upserts)
        heap.extend(upserts)
        live = np.concatenate([self.live, np.ones(len(upserts), bool)])
        dead, rows = self.dead.copy(), dict(self.rows)
        gone = [product_id for write in writes for product_id in write.deletes]
        for product_id in (*gone, *(one.item.product_id for one in upserts)):
            base, own = index.rows.get(product_id), rows.pop(product_id, None)
            if base is not None:
                dead[base] = True
            if own is not None:
                live[own] = False
        rows |= {one.item.product_id: row for row, one in enumerate(upserts, count)}
        sequence = max((write.sequence for write in writes), default=self.sequence)
        vectors = heap.vectors[: len(heap.items)]
        return Delta(sequence, dead, int(dead.sum()), vectors, live, rows, heap)

    def search(self, queries: Float32[np.ndarray, "Q D"], k: int) -> tuple[Rows, Scores]:
        """See `Nearest`, over the live products."""
        rows, scores = no_results(len(queries), k)
        # Scoring what is void too costs less than gathering the others for every call.
        every = np.where(self.live, queries @ self.vectors.T, np.float32(-np.inf))
        for i, found in enumerate(every):
            best = largest(found, min(k, len(self.rows)))
            rows[i, : len(best)], scores[i, : len(best)] = best, found[best]
        return rows, scores

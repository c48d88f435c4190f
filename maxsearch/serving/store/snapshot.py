"""One state of a store: a generation and the writes since. Readers keep the one they have; it never changes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from maxsearch.serving.index import LoadedIndex, open_index
from maxsearch.serving.items import Item
from maxsearch.serving.nearest import Rows, Scores, no_results
from maxsearch.serving.store.delta import Delta


@dataclass(frozen=True)
class Snapshot:
    """What a search sees. Rows below the number of items of the generation are its own, those from it on the delta's.

    Attributes:
      generation: the generation's name; an index folder outside a store has its folder's.
      index: the generation.
      delta: the writes since.
    """

    generation: str
    index: LoadedIndex
    delta: Delta

    @classmethod
    def of_folder(cls, folder: Path, *, checksums: bool = True) -> "Snapshot":
        """An index folder outside a store, which nothing is written to; see `open_index`."""
        index = open_index(folder, checksums=checksums)
        return cls(folder.absolute().name, index, Delta.empty(index))

    def __len__(self) -> int:
        """How many products there are."""
        return len(self.index.items) - self.delta.dead_count + len(self.delta.rows)

    @property
    def model_fingerprint(self) -> str:
        """Fingerprint of the model that the vectors are of."""
        return self.index.model_fingerprint

    def search(self, queries: Float32[np.ndarray, "Q D"], k: int) -> tuple[Rows, Scores]:
        """See `Nearest`: the generation's best of those that were not overwritten or deleted, and the delta's."""
        rows, scores = self._base(queries, k) if self.delta.dead_count else self.index.nearest.search(queries, k)
        if not self.delta.rows:
            return rows, scores
        more_rows, more_scores = self.delta.search(queries, k)
        more_rows = np.where(more_rows >= 0, more_rows + len(self.index.items), -1)
        return best_of(np.concatenate([rows, more_rows], axis=1), np.concatenate([scores, more_scores], axis=1), k)

    def row(self, product_id: str) -> int | None:
        """The row of a product; None where there is none of that id."""
        own = self.delta.rows.get(product_id)
        if own is not None:
            return own + len(self.index.items)
        base = self.index.rows.get(product_id)
        return None if base is None or self.delta.dead[base] else base

    def live(self) -> Int64[np.ndarray, " n"]:
        """The rows that hold a product, ascending."""
        base = np.flatnonzero(~self.delta.dead)
        return np.concatenate([base, len(self.index.items) + np.flatnonzero(self.delta.live)]).astype(np.int64)

    def take(self, rows: Sequence[int]) -> list[Item]:
        """The items at the given rows, in that order."""
        count = len(self.index.items)
        base = iter(self.index.items.take([row for row in rows if row < count]))
        return [next(base) if row < count else self.delta.item(row - count) for row in rows]

    def images(self, row: int) -> tuple[bytes, ...]:
        """The pictures of the product at a row; none where the index keeps none."""
        count = len(self.index.items)
        if row >= count:
            return self.delta.images(row - count)
        return () if self.index.pictures is None else self.index.pictures.of(row)

    def pictured(self, row: int) -> bool:
        """Whether the product at a row has a picture here."""
        count = len(self.index.items)
        if row >= count:
            return bool(self.delta.images(row - count))
        return self.index.pictures is not None and self.index.pictures.has(row)

    def vectors(self, rows: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, "n D"]:
        """The vectors at the given rows, in that order."""
        count = len(self.index.items)
        found = np.empty((len(rows), self.index.manifest["dim"]), np.float32)
        of_delta = rows >= count
        found[~of_delta] = self.index.vectors[rows[~of_delta]]
        found[of_delta] = self.delta.vectors[rows[of_delta] - count]
        return found

    def _base(self, queries: Float32[np.ndarray, "Q D"], k: int) -> tuple[Rows, Scores]:
        """The generation's best without the dead: more are asked for until `k` of every query's live."""
        rows, scores = no_results(len(queries), k)
        dead, most = self.delta.dead, min(len(self.index.items), k + self.delta.dead_count)
        asked, waiting = min(most, 2 * k + 16), np.arange(len(queries))
        while len(waiting):
            found, values = self.index.nearest.search(queries[waiting], asked)
            gone = (found < 0) | dead[np.maximum(found, 0)]
            found, values = best_of(np.where(gone, -1, found), np.where(gone, -np.inf, values).astype(np.float32), k)
            rows[waiting, : found.shape[1]], scores[waiting, : found.shape[1]] = found, values
            waiting = waiting[(rows[waiting] < 0).any(axis=1)] if asked < most else waiting[:0]
            asked = min(most, 4 * asked)
        return rows, scores


def best_of(rows: Int64[np.ndarray, "Q F"], scores: Float32[np.ndarray, "Q F"], k: int) -> tuple[Rows, Scores]:
    """The `k` best of what several searches found, best first; equal scores are ordered by row."""
    order = np.lexsort((rows, -scores))[:, :k]
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)

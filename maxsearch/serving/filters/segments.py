"""What is searched together: a built index and the items written since, each with vectors, attributes and deletions.

Rows of several segments are counted on: row r of the second segment is row len(first) + r of all. So the rows of a
segment keep their numbers while segments behind it grow.

Letters: N rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from jaxtyping import Int64

from maxsearch.serving.filters.column_types import Mask
from maxsearch.serving.filters.columns import Columns
from maxsearch.serving.filters.costs import Costs
from maxsearch.serving.filters.masks import MaskCache, Selection
from maxsearch.serving.filters.tree import Node
from maxsearch.serving.filters.vector_table import VectorTable
from maxsearch.serving.nearest import Nearest


@dataclass(frozen=True)
class Segment:
    """Rows with their attributes and vectors.

    Attributes:
      key: changes whenever the attributes do; masks are remembered by it.
      columns: the attributes.
      vectors: unit vectors.
      nearest: the search over them.
      exact: whether `nearest` misses nothing.
      alive: False for rows that were deleted or replaced; None when there are none.
      costs: what the ways to search cost here; None: always scan (a small segment).
    """

    key: str
    columns: Columns
    vectors: VectorTable
    nearest: Nearest
    exact: bool
    alive: Mask | None = None
    costs: Costs | None = None

    def __len__(self) -> int:
        return len(self.columns)

    def select(self, node: Node | None, cache: MaskCache) -> Selection:
        """The living rows that a filter keeps; None keeps all."""
        if node is None:
            return Selection(self.alive if self.alive is not None else np.ones(len(self), bool))
        mask = cache.get(self.key, node, self.columns)
        return Selection(mask if self.alive is None else mask & self.alive)


def offsets(segments: Sequence[Segment]) -> list[int]:
    """The number of each segment's first row."""
    return [0, *accumulate(len(segment) for segment in segments)][: len(segments)]


def locate(segments: Sequence[Segment], rows: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, "n 2"]:
    """Which segment each row is of, and its number there."""
    starts = np.array(offsets(segments), np.int64)
    of = np.searchsorted(starts, rows, side="right") - 1
    # Empty segments begin where the next one does, and hold no row.
    return np.stack([of, rows - starts[of]], axis=1)


def variants(segments: Sequence[Segment], rows: Int64[np.ndarray, " n"]) -> list[str]:
    """The variant group of each row; empty where it has none."""
    places = locate(segments, rows)
    found = [""] * len(rows)
    for number, segment in enumerate(segments):
        mine = np.flatnonzero(places[:, 0] == number)
        for place, group in zip(mine.tolist(), segment.columns.variants(places[mine, 1]), strict=True):
            found[place] = group
    return found

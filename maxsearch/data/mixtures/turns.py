"""Whose turn it is: which dataset each draw of a mixture is from, and which draw of that dataset it is.

Both follow from the number of the draw and the schedule alone, in closed form. Draws come in blocks of 25,200, which
halves, thirds, sevenths and percents divide: in a block each dataset has exactly its share, rounded to whole draws, and
its turns are spread evenly, so that every batch has nearly the same mix.

P datasets, k draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from jaxtyping import Float64, Int64

BLOCK = 25_200
STAIRS = 100  # a share that moves is a staircase of at most so many steps
GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Segment:
    """A part of the schedule in which shares stay, or go in straight lines.

    Attributes:
      start: the first draw.
      first: the share of each dataset there; they sum to 1.
      last: the shares where the next segment begins.
    """

    start: int
    first: tuple[float, ...]
    last: tuple[float, ...]


class Turns:
    """The datasets of draws 0, 1, 2, ... without end."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        """Cuts moving shares into stairs.

        Args:
          segments: by rising starts; the first starts at 0, and the shares of the last stay.
        """
        starts, counts = [], []
        for place, segment in enumerate(segments):
            end = segments[place + 1].start if place + 1 < len(segments) else None
            for start, shares in _stairs(segment, end):
                starts.append(start)
                counts.append(whole_counts(shares))
        self._starts = np.array(starts, np.int64)
        self._counts = counts
        # Each stair begins elsewhere in its pattern, so that a rare dataset's turns fall into short stairs too.
        self._offsets = [int(place * GOLDEN % 1 * BLOCK) for place in range(len(starts))]
        self._before = np.zeros((len(starts), len(counts[0])), np.int64)
        for place in range(1, len(starts)):
            length = starts[place] - starts[place - 1]
            self._before[place] = self._before[place - 1] + self._within(place - 1, length)

    def of(self, draws: Sequence[int]) -> tuple[Int64[np.ndarray, " k"], Int64[np.ndarray, " k"]]:
        """(the dataset of each draw, the number of the draw among those of its dataset)."""
        asked = np.asarray(draws, np.int64)
        datasets, numbers = np.empty_like(asked), np.empty_like(asked)
        stairs = np.searchsorted(self._starts, asked, side="right") - 1
        for stair in np.unique(stairs):
            here = stairs == stair
            counts, offset = self._counts[stair], self._offsets[stair]
            blocks, places = np.divmod(asked[here] - self._starts[stair] + offset, BLOCK)
            turn, rank = pattern(counts)
            base = self._before[stair] - _first(counts, offset)
            datasets[here] = turn[places]
            numbers[here] = base[datasets[here]] + blocks * np.array(counts)[datasets[here]] + rank[places]
        return datasets, numbers

    def before(self, draw: int) -> Int64[np.ndarray, " P"]:
        """How many draws below this one are each dataset's."""
        stair = int(np.searchsorted(self._starts, draw, side="right")) - 1
        return self._before[stair] + self._within(stair, draw - int(self._starts[stair]))

    def shares(self, draw: int) -> Float64[np.ndarray, " P"]:
        """The share of each dataset around a draw."""
        stair = int(np.searchsorted(self._starts, draw, side="right")) - 1
        return np.array(self._counts[stair]) / BLOCK

    def _within(self, stair: int, length: int) -> Int64[np.ndarray, " P"]:
        """How many of the first `length` draws of a stair are each dataset's."""
        counts, offset = self._counts[stair], self._offsets[stair]
        blocks, places = divmod(length + offset, BLOCK)
        return blocks * np.array(counts, np.int64) + _first(counts, places) - _first(counts, offset)


def whole_counts(shares: Sequence[float]) -> tuple[int, ...]:
    """Draws of each dataset in a block: the shares rounded by the largest remainder, so that they fill it."""
    exact = np.array(shares) * BLOCK
    # Beyond what float arithmetic loses, so that a share which is whole stays so.
    counts = np.floor(exact + 1e-6).astype(np.int64)
    short = BLOCK - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:short]] += 1
    return tuple(counts.tolist())


@lru_cache(maxsize=8)
def pattern(counts: tuple[int, ...]) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """(whose turn each place of a block is, its rank among the dataset's turns): each dataset's evenly spread."""
    due = np.concatenate([(np.arange(count) + 0.5) / max(count, 1) for count in counts])
    order = np.argsort(due, kind="stable")
    turn = np.repeat(np.arange(len(counts)), counts)[order]
    rank = np.concatenate([np.arange(count) for count in counts])[order]
    return turn, rank


def _first(counts: tuple[int, ...], places: int) -> Int64[np.ndarray, " P"]:
    """How many of the first places of a block are each dataset's."""
    return np.bincount(pattern(counts)[0][:places], minlength=len(counts)).astype(np.int64)


def _stairs(segment: Segment, end: int | None) -> list[tuple[int, tuple[float, ...]]]:
    """(first draw, shares) of each stair of a segment: the shares in the middle of the stair."""
    if end is None or segment.first == segment.last:
        return [(segment.start, segment.first)]
    length = end - segment.start
    count = min(length, STAIRS)
    edges = [segment.start + length * stair // count for stair in range(count + 1)]
    first, last = np.array(segment.first), np.array(segment.last)
    middles = [((low + high) / 2 - segment.start) / length for low, high in pairwise(edges)]
    return [
        (low, tuple((first + (last - first) * middle).tolist()))
        for low, middle in zip(edges[:-1], middles, strict=True)
    ]

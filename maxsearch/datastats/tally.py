"""Sums per 64-bit key in NumPy arrays, so that a log is summed without holding it."""

import numpy as np
from jaxtyping import Float64, Int32, Int64, UInt64

LEAST_BUFFER = 1 << 18


class Tally:
    """Sums per key over a stream, in memory that grows with the distinct keys and not with the stream.

    Attributes:
      keys: the distinct keys, ascending.
      first: number of the record in which each came first.
      records: how many records had it.
      weight: the sum of their weights.
      words: the length of the first one's text in words.
      tokens: the same in tokens; 0 throughout when none are counted.

    They are complete after `finish`. Q is the number of distinct keys.
    """

    keys: UInt64[np.ndarray, " Q"]
    first: Int64[np.ndarray, " Q"]
    records: Int64[np.ndarray, " Q"]
    weight: Float64[np.ndarray, " Q"]
    words: Int32[np.ndarray, " Q"]
    tokens: Int32[np.ndarray, " Q"]

    def __init__(self) -> None:
        self._waiting: list[tuple[np.ndarray, ...]] = []
        self._held = 0
        self._merge([_rows([], [], [], [], [], [])])

    def add(
        self, keys: list[int], first: list[int], weight: list[float], words: list[int], tokens: list[int] | None = None
    ) -> None:
        """Adds records, each list with one entry per record; they come in the order of `first`."""
        self._waiting.append(_rows(keys, first, [1] * len(keys), weight, words, tokens or [0] * len(keys)))
        self._held += len(keys)
        # Merging costs a sort of all keys: it waits until there is as much new as old.
        if self._held > max(LEAST_BUFFER, len(self.keys)):
            self.finish()

    def finish(self) -> None:
        """Brings the attributes up to date."""
        mine = (self.keys, self.first, self.records, self.weight, self.words, self.tokens)
        self._merge([mine, *self._waiting])
        self._waiting, self._held = [], 0

    def _merge(self, parts: list[tuple[np.ndarray, ...]]) -> None:
        keys, first, records, weight, words, tokens = map(np.concatenate, zip(*parts, strict=True))
        # return_index gives the earliest of equal keys, and parts stand in the order of the stream.
        self.keys, at, which = np.unique(keys, return_index=True, return_inverse=True)
        self.first, self.words, self.tokens = first[at], words[at], tokens[at]
        self.weight = np.bincount(which, weights=weight, minlength=len(at))
        self.records = np.zeros(len(at), np.int64)
        np.add.at(self.records, which, records)


def _rows(
    keys: list[int], first: list[int], records: list[int], weight: list[float], words: list[int], tokens: list[int]
) -> tuple[np.ndarray, ...]:
    return (
        np.array(keys, np.uint64),
        np.array(first, np.int64),
        np.array(records, np.int64),
        np.array(weight, np.float64),
        np.array(words, np.int32),
        np.array(tokens, np.int32),
    )

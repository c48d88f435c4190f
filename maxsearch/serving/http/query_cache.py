"""Vectors of queries that were asked before."""

from collections import OrderedDict
from collections.abc import Hashable

import numpy as np
from jaxtyping import Float32


class QueryCache:
    """The vectors of the `size` queries that were asked last; belongs to one event loop."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._vectors: OrderedDict[Hashable, Float32[np.ndarray, " D"]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._vectors)

    def get(self, key: Hashable) -> Float32[np.ndarray, " D"] | None:
        """The vector, which is now the one asked last; None when it is not kept."""
        vector = self._vectors.get(key)
        if vector is not None:
            self._vectors.move_to_end(key)
        return vector

    def put(self, key: Hashable, vector: Float32[np.ndarray, " D"]) -> None:
        """Keeps a vector, and lets go of the one asked longest ago."""
        if not self._size:
            return
        self._vectors[key] = vector
        self._vectors.move_to_end(key)
        if len(self._vectors) > self._size:
            self._vectors.popitem(last=False)

"""Vectors by row, whatever they are stored as.

Letters: n rows, D vector size.
"""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64


@runtime_checkable
class VectorTable(Protocol):
    """What gives vectors by row."""

    def __len__(self) -> int: ...

    def take(self, rows: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, "n D"]:
        """The vectors at these rows."""
        ...

    def span(self, start: int, stop: int) -> Float32[np.ndarray, "n D"]:
        """The vectors at start..stop-1."""
        ...


class ArrayVectors:
    """Vectors of an array: float32, or another type that float32 can hold, such as bfloat16."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __len__(self) -> int:
        return len(self._array)

    def take(self, rows: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, "n D"]:
        """See `VectorTable`."""
        return np.asarray(self._array[rows], dtype=np.float32)

    def span(self, start: int, stop: int) -> Float32[np.ndarray, "n D"]:
        """See `VectorTable`."""
        return np.asarray(self._array[start:stop], dtype=np.float32)

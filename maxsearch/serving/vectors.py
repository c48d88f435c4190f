"""Writes vectors to an .npy file without knowing how many will come."""

from pathlib import Path
from types import TracebackType

import numpy as np
from jaxtyping import Float32


class VectorWriter:
    """Appends float32 vectors to an .npy file whose length is known only at the end; use as a context manager."""

    def __init__(self, path: Path, dim: int) -> None:
        self.count = 0
        self._dim = dim
        self._stream = path.open("wb")
        self._write_header()
        self._start = self._stream.tell()

    def __enter__(self) -> "VectorWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stream:
            # NumPy pads its header so that the first axis can grow in place.
            self._stream.seek(0)
            self._write_header()
            if self._stream.tell() != self._start:
                raise ValueError(f"the .npy header of {self.count} vectors no longer fits")

    def extend(self, vectors: Float32[np.ndarray, "n D"]) -> None:
        """Appends vectors."""
        if vectors.ndim != 2 or vectors.shape[1] != self._dim:
            raise ValueError(f"vectors of shape {vectors.shape} cannot be appended to vectors of size {self._dim}")
        self._stream.write(np.ascontiguousarray(vectors, dtype="<f4").tobytes())
        self.count += len(vectors)

    def _write_header(self) -> None:
        header = {"descr": "<f4", "fortran_order": False, "shape": (self.count, self._dim)}
        np.lib.format.write_array_header_1_0(self._stream, header)

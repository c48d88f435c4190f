"""Item vectors on disk as float32, or smaller: bfloat16, or int8 with one scale per vector.

Letters: Q queries, N items, D vector size, K results.

An int8 vector is round(127 x / m) with m the largest of |x|; the scale m / 127 is kept per vector (ours), so that a
vector's code does not depend on its neighbours and is the same after it was decoded and coded again.
"""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import ml_dtypes
import numpy as np
from jaxtyping import Float32, Int64

from maxsearch.serving.nearest import ExactNearest, Nearest, Rows, Scores, largest, no_results

VECTORS = "vectors.npy"
SCALES = "scales.npy"

CODES = {"float32": "<f4", "bfloat16": "<i2", "int8": "|i1"}
"""The NumPy type of each kind's file; bfloat16, which .npy files do not know, is kept as its bits."""
BLOCK = 65_536


class VectorWriter:
    """Appends vectors to an .npy file whose length is known only at the end; use as a context manager."""

    def __init__(self, path: Path, dim: int, code: str = "<f4") -> None:
        self.count = 0
        self._dim, self._code = dim, code
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

    def extend(self, vectors: np.ndarray) -> None:
        """Appends vectors [n, D], as the type of the file."""
        if vectors.ndim != 2 or vectors.shape[1] != self._dim:
            raise ValueError(f"vectors of shape {vectors.shape} cannot be appended to vectors of size {self._dim}")
        self._stream.write(np.ascontiguousarray(vectors, dtype=self._code).tobytes())
        self.count += len(vectors)

    def _write_header(self) -> None:
        header = {"descr": self._code, "fortran_order": False, "shape": (self.count, self._dim)}
        np.lib.format.write_array_header_1_0(self._stream, header)


class StoredVectors:
    """The vectors of an index, mapped from their files and decoded as they are asked for.

    Attributes:
      kind: `float32`, `bfloat16` or `int8`.
      codes: what the file holds [N, D].
    """

    def __init__(self, kind: str, codes: np.ndarray, scales: Float32[np.ndarray, " N"] | None = None) -> None:
        self.kind, self.codes, self._scales = kind, codes, scales

    @classmethod
    def read(cls, folder: Path, kind: str) -> "StoredVectors":
        """Maps the files of a folder.

        Raises:
          ValueError: they are no .npy files, or not of this kind.
          OSError: one is missing.
        """
        codes = np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False)
        if codes.dtype != np.dtype(CODES[kind]) or codes.ndim != 2:
            raise ValueError(f"{VECTORS} holds {codes.dtype} of shape {codes.shape}, not {kind} vectors")
        scales = np.load(folder / SCALES, allow_pickle=False) if kind == "int8" else None
        if scales is not None and (scales.dtype != np.float32 or scales.shape != codes.shape[:1]):
            raise ValueError(f"{SCALES} holds {scales.dtype} of shape {scales.shape} for {len(codes)} vectors")
        return cls(kind, codes, scales)

    @property
    def shape(self) -> tuple[int, int]:
        """Number and size of the vectors."""
        return self.codes.shape[0], self.codes.shape[1]

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: slice | Int64[np.ndarray, "..."]) -> Float32[np.ndarray, "... D"]:
        """The vectors of the given rows, decoded."""
        codes = self.codes[rows]
        if self.kind == "float32":
            return codes
        if self._scales is None:
            return np.ascontiguousarray(codes).view(ml_dtypes.bfloat16).astype(np.float32)
        return codes * self._scales[rows][..., None]

    def blocks(self) -> Iterator[tuple[int, Float32[np.ndarray, "n D"]]]:
        """All vectors, decoded BLOCK at a time, each with its first row."""
        for start in range(0, len(self), BLOCK):
            yield start, self[start : start + BLOCK]

    def exact(self) -> Nearest:
        """The search that scores every one of them."""
        return ExactNearest(self.codes) if self.kind == "float32" else DecodingNearest(self)


def store_vectors(source: Path, folder: Path, kind: str) -> StoredVectors:
    """Writes the vectors of a float32 .npy file into an index folder; float32 itself is moved there.

    Args:
      source: the .npy file [N, D], on the folder's file system.
      folder: the index folder.
      kind: `float32`, `bfloat16` or `int8`.
    """
    if kind == "float32":
        source.replace(folder / VECTORS)
        return StoredVectors.read(folder, kind)
    vectors = StoredVectors("float32", np.load(source, mmap_mode="r", allow_pickle=False))
    scales = []
    with VectorWriter(folder / VECTORS, vectors.shape[1], CODES[kind]) as writer:
        for _, block in vectors.blocks():
            if kind == "bfloat16":
                writer.extend(block.astype(ml_dtypes.bfloat16).view(np.int16))
            else:
                codes, scale = to_int8(block)
                writer.extend(codes)
                scales.append(scale)
    if scales:
        np.save(folder / SCALES, np.concatenate(scales))
    return StoredVectors.read(folder, kind)


def to_int8(vectors: Float32[np.ndarray, "n D"]) -> tuple[np.ndarray, Float32[np.ndarray, " n"]]:
    """Codes [n, D] of int8 and their scales; a vector is about its code times its scale."""
    scales = np.abs(vectors).max(axis=1) / np.float32(127)
    safe = np.where(scales > 0, scales, np.float32(1))
    return np.rint(vectors / safe[:, None]).astype(np.int8), scales


class DecodingNearest:
    """Scores every item, decoding a block of them at a time; see `Nearest`."""

    def __init__(self, vectors: StoredVectors) -> None:
        self._vectors = vectors

    def search(self, queries: Float32[np.ndarray, "Q D"], k: int) -> tuple[Rows, Scores]:
        """See `Nearest`."""
        rows, scores = no_results(len(queries), k)
        for start, block in self._vectors.blocks():
            for i, found in enumerate(queries @ block.T):
                # Rows of earlier blocks come first, so that equal scores stay ordered by row.
                kept = rows[i] >= 0
                best = largest(found, k)
                both = np.concatenate([scores[i][kept], found[best]])
                order = largest(both, k)
                rows[i, : len(order)] = np.concatenate([rows[i][kept], best + start])[order]
                scores[i, : len(order)] = both[order]
        return rows, scores

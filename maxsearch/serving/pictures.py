"""The catalogue's pictures, kept with an index for the page, for re-ranking and for explanations.

Two files: all rows' pictures one after the other, and where each row's begin.

Letters: N rows.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgpack
import numpy as np

DATA, STARTS = "pictures.bin", "pictures.npy"


def packed(images: Sequence[bytes]) -> bytes:
    """A product's pictures as the bytes of its row; none are no bytes."""
    return msgpack.packb(list(images)) if images else b""


def unpacked(row: bytes) -> tuple[bytes, ...]:
    """Reverses `packed`."""
    return tuple(msgpack.unpackb(row)) if row else ()


def write_pictures(folder: Path, rows: Iterable[bytes]) -> None:
    """Writes the packed pictures of every row, in order."""
    starts = [0]
    with (folder / DATA).open("wb") as stream:
        for row in rows:
            stream.write(row)
            starts.append(starts[-1] + len(row))
    np.save(folder / STARTS, np.array(starts, np.uint64))


class Pictures:
    """The pictures of an index by row, read from the mapped file when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self._starts = np.load(folder / STARTS, mmap_mode="r", allow_pickle=False)
        size = (folder / DATA).stat().st_size
        self._data = np.memmap(folder / DATA, np.uint8, "r", shape=(size,)) if size else np.zeros(0, np.uint8)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def row(self, row: int) -> bytes:
        """The packed pictures of a row."""
        return self._data[int(self._starts[row]) : int(self._starts[row + 1])].tobytes()

    def of(self, row: int) -> tuple[bytes, ...]:
        """The pictures of a row."""
        return unpacked(self.row(row))

    def has(self, row: int) -> bool:
        """Whether a row has a picture."""
        return bool(self._starts[row + 1] > self._starts[row])

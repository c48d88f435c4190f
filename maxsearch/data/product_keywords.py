"""Which keywords each product of a catalogue has: gathered by `prepare`, read by the training stream."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int16

from maxsearch.data.keywords import KEYWORDS, PRODUCT_KEYWORDS, Lexicon, padded
from maxsearch.files import account_of

TABLE = "keywords.npy"
MAX_KEYWORDS = np.iinfo(np.int16).max
NONE = -1
WRITE_BLOCK = 4096


class ProductKeywords:
    """The ids of each product's keywords, read from disk on demand; cheap to pickle to worker processes."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._rows: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_path": self._path, "_rows": None}

    @property
    def rows(self) -> np.ndarray:
        """int16 [products, 48], mapped from the file; -1 fills up."""
        if self._rows is None:
            self._rows = np.asarray(np.load(self._path, mmap_mode="r", allow_pickle=False))
        return self._rows

    def __getitem__(self, product: int) -> tuple[int, ...]:
        row = self.rows[product]
        return tuple(row[row != NONE].tolist())


@dataclass(frozen=True)
class CatalogueKeywords:
    """The lexicon of a prepared catalogue, and the keywords of its products by position."""

    lexicon: Lexicon
    products: ProductKeywords


def product_row(lexicon: Lexicon, title: str, queries: Iterable[str], texts: Sequence[str]) -> Int16[np.ndarray, " 48"]:
    """A product's keywords: those of its title, of the queries that led to it, and of its further texts, in this order.

    What there is no room for is left out; -1 fills up.
    """
    return padded(lexicon.ids(title, *queries, *texts), PRODUCT_KEYWORDS).astype(np.int16)


def _write_table(folder: Path, count: int, rows: Iterable[Int16[np.ndarray, " 48"]]) -> None:
    """Writes the keywords of `count` products, in their order, to a file in `folder`; holds a block of them."""
    remaining = iter(rows)
    header = {"descr": np.dtype(np.int16).str, "fortran_order": False, "shape": (count, PRODUCT_KEYWORDS)}
    with (folder / TABLE).open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        while block := list(islice(remaining, WRITE_BLOCK)):
            stream.write(np.stack(block).tobytes())
        stream.flush()
        os.fsync(stream.fileno())


def write_keywords(
    folder: Path, lexicon: Lexicon, count: int, rows: Iterable[Int16[np.ndarray, " 48"]]
) -> dict[str, Any]:
    """Writes the lexicon and the table of its keywords by product.

    Args:
      folder: where both files go.
      lexicon: the keywords.
      count: number of products.
      rows: what `product_row` gives for each product, in their order.

    Returns:
      {"count", "files": [{"name", "bytes", "sha256"}]}, as the manifest has it.
    """
    _write_table(folder, count, rows)
    lexicon.save(folder / KEYWORDS)
    paths = (folder / KEYWORDS, folder / TABLE)
    files = [account_of(path, folder) for path in paths]
    return {"count": len(lexicon), "files": files}

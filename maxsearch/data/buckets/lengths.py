"""How many tokens every query and product has: counted once, read by the stream without reading the texts again.

N queries or products, k draws.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from maxsearch.data.sources import ExampleSource
from maxsearch.data.tokenize import TextEncoder
from maxsearch.errors import MaxsearchError
from maxsearch.files import directory_in_place, read_json, write_json

QUERIES, PRODUCTS = "queries.npy", "products.npy"
FINGERPRINT = "fingerprint.json"
BLOCK = 2**14  # texts that are counted at a time

Count = Callable[[Sequence[str]], np.ndarray]


@dataclass(frozen=True)
class Lengths:
    """The tokens of each text, as far as the model reads them.

    Attributes:
      queries: uint16 [N], of the longest text that may be said as the query.
      products: uint16 [N, 2], of the longest text field, and of all fields together.
      fields: text fields of a product.
    """

    queries: np.ndarray
    products: np.ndarray
    fields: int = 1

    def of(self, pairs: Int64[np.ndarray, "k 2"]) -> Int64[np.ndarray, "k 3"]:
        """Tokens of the query, of the longest text field and of all text fields, of pairs as a source gives them."""
        query, product = self.queries[pairs[:, 0]], self.products[pairs[:, 1]]
        return np.concatenate([query[:, None], product], axis=1).astype(np.int64)

    @property
    def longest(self) -> tuple[int, int]:
        """Tokens of the longest query and of the longest text field, at least 1."""
        return max(int(self.queries.max()), 1), max(int(self.products[:, 0].max()), 1)

    @classmethod
    def count(
        cls, source: ExampleSource, query_encoder: TextEncoder, title_encoder: TextEncoder, fields: int = 1
    ) -> "Lengths":
        """Counts all texts of a source: one pass over its products and queries."""
        queries, products = source.sizes
        found = cls(np.zeros(queries, np.uint16), np.zeros((products, 2), np.uint16), fields)
        for block, counts in _counted(source.query_texts(), query_encoder.lengths):
            found.queries[block] = [max(each, default=0) for each in counts]
        shown = (texts[:fields] for texts in source.product_texts())
        for block, counts in _counted(shown, title_encoder.lengths):
            found.products[block] = [(max(each, default=0), sum(each)) for each in counts]
        return found

    def save(self, folder: Path, fingerprint: str) -> None:
        """Writes a folder that appears whole; `fingerprint` names the texts and how they were counted."""
        with directory_in_place(folder) as draft:
            np.save(draft / QUERIES, self.queries)
            np.save(draft / PRODUCTS, self.products)
            write_json(draft / FINGERPRINT, {"fingerprint": fingerprint})

    @classmethod
    def load(cls, folder: Path, sizes: tuple[int, int], fields: int) -> "Lengths":
        """Maps what `save` wrote.

        Raises:
          MaxsearchError: it is absent or damaged.
        """
        remedy = f"remove {folder}, and repeat the command to count them again"
        try:
            queries, products = (
                np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in (QUERIES, PRODUCTS)
            )
        except (OSError, ValueError) as error:
            raise MaxsearchError(f"the token counts in {folder} cannot be read ({error}): {remedy}") from None
        found = (queries.dtype, queries.shape, products.dtype, products.shape)
        if found != (np.uint16, sizes[:1], np.uint16, (sizes[1], 2)):
            raise MaxsearchError(f"the token counts in {folder} are those of other data: {remedy}")
        return cls(queries, products, fields)


def saved_fingerprint(folder: Path) -> str | None:
    """Which texts a folder's counts are of; None when it holds none."""
    if not (folder / FINGERPRINT).is_file():
        return None
    value = read_json(folder / FINGERPRINT, what="fingerprint of token counts", remedy=f"remove {folder}")
    found = value.get("fingerprint") if isinstance(value, dict) else None
    return found if isinstance(found, str) else None


def _counted(rows: Iterator[Sequence[str]], count: Count) -> Iterator[tuple[slice, list[list[int]]]]:
    """(which rows, the counts of each row's texts), block by block."""
    start = 0
    while block := list(islice(rows, BLOCK)):
        counts: Any = iter(count([text for texts in block for text in texts]).tolist())
        yield slice(start, start + len(block)), [list(islice(counts, len(texts))) for texts in block]
        start += len(block)

"""The table of token ids beside the shards of prepared data: what is in its files, and how they are read.

Texts are numbered: the fields of the first product, of the second and so on, then the queries. Their tokens lie one
behind the other, uncut and without special tokens, so that one table serves every length that a model reads.

M texts, N tokens, P products, I interactions; k of them asked for.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8, UInt16, UInt32

TOKENS, TOKENIZER = "tokens", "tokenizer"  # folders
IDS = f"{TOKENS}/ids.npy"  # uint16 or uint32 [N]
WORDS = f"{TOKENS}/words.npy"  # uint8 [N]: whether a token begins a word, goes on with one, or belongs to none
ENDS = f"{TOKENS}/ends.npy"  # int64 [M + 1]: tokens of the texts before, and in the end of all
PRODUCTS = f"{TOKENS}/products.npy"  # int64 [P + 1]: texts of the products before, and in the end of all
QUERIES = f"{TOKENS}/queries.npy"  # int64 [I]: the text that is each interaction's query
FILES = (IDS, WORDS, ENDS, PRODUCTS, QUERIES)
GOES_ON, BEGINS, NO_WORD = 0, 1, 2
NO_TEXT = -1


class TokenTable:
    """Token ids of every product's text fields and every interaction's query; cheap to pickle to worker processes.

    Attributes:
      tokenizer: the folder of the tokenizer that they are of.
      fingerprint: of that tokenizer, as `tokenizer_fingerprint` gives it.
    """

    def __init__(self, data: Path, fingerprint: str) -> None:
        """Opens nothing yet.

        Args:
          data: the folder of prepared data.
          fingerprint: of the tokenizer.
        """
        self._data, self.fingerprint = data.absolute(), fingerprint

    def __getstate__(self) -> dict[str, Any]:
        return {"_data": self._data, "fingerprint": self.fingerprint}

    @property
    def tokenizer(self) -> Path:
        """The folder of the tokenizer."""
        return self._data / TOKENIZER

    @cached_property
    def _ids(self) -> UInt16[np.ndarray, " N"] | UInt32[np.ndarray, " N"]:
        return self._mapped(IDS)

    @cached_property
    def _words(self) -> UInt8[np.ndarray, " N"]:
        return self._mapped(WORDS)

    @cached_property
    def _ends(self) -> Int64[np.ndarray, " M1"]:
        return self._mapped(ENDS)

    @cached_property
    def _products(self) -> Int64[np.ndarray, " P1"]:
        return self._mapped(PRODUCTS)

    @cached_property
    def _queries(self) -> Int64[np.ndarray, " I"]:
        return self._mapped(QUERIES)

    def fits(self, products: int, interactions: int) -> bool:
        """Whether the files hold arrays that fit one another, and data of so many records."""
        try:
            arrays = [self._mapped(name) for name in FILES]
        except (OSError, ValueError):
            return False
        ids, words, ends, firsts, queries = arrays
        return bool(
            [array.ndim for array in arrays] == [1] * len(arrays)
            and ids.dtype in (np.uint16, np.uint32)
            and words.dtype == np.uint8
            and {ends.dtype, firsts.dtype, queries.dtype} == {np.dtype(np.int64)}
            and len(ids) == len(words)
            and (len(firsts), len(queries)) == (products + 1, interactions)
            and len(ends) > firsts[-1]
            and int(ends[-1]) == len(ids)
        )

    def queries_of(self, interactions: Int64[np.ndarray, " k"]) -> Int64[np.ndarray, " k"]:
        """The number of each interaction's query; -1 for interaction -1."""
        return np.where(interactions < 0, NO_TEXT, self._queries[interactions])

    def fields_of(self, products: Int64[np.ndarray, " k"], fields: int) -> Int64[np.ndarray, "k F"]:
        """The numbers of the products' first text fields; -1 for those that are lacking, and for product -1."""
        numbers = self._products[products][:, None] + np.arange(fields)
        lacking = (numbers >= self._products[products + 1][:, None]) | (products < 0)[:, None]
        return np.where(lacking, NO_TEXT, numbers)

    def ids(
        self, texts: Int64[np.ndarray, " k"], room: int
    ) -> tuple[Int64[np.ndarray, "k room"], Int64[np.ndarray, " k"]]:
        """The first tokens of each text, as many as there is room for, and how many these are; 0 behind them."""
        there, at, lengths = self._places(texts, room)
        found = np.zeros(there.shape, np.int64)
        found[there] = self._ids[at]
        return found, lengths

    def words(self, texts: Int64[np.ndarray, " k"], room: int) -> Int64[np.ndarray, "k room"]:
        """The number of the word in its text that each of these tokens belongs to; -1 for none, and behind them."""
        there, at, _ = self._places(texts, room)
        marks = np.full(there.shape, NO_WORD, np.uint8)
        marks[there] = self._words[at]
        return np.where(marks == NO_WORD, -1, np.cumsum(marks == BEGINS, axis=1) - 1)

    def _places(self, texts: Int64[np.ndarray, " k"], room: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(bool [k, room], where there are tokens; which they are among all; int64 [k], how many each text has)."""
        starts = self._ends[texts]
        lengths = np.minimum(self._ends[texts + 1] - starts, room)
        steps = np.arange(room)
        there = steps < lengths[:, None]
        return there, (starts[:, None] + steps)[there], lengths

    def _mapped(self, name: str) -> np.ndarray:
        return np.asarray(np.load(self._data / name, mmap_mode="r", allow_pickle=False))


def sound_entry(entry: Mapping[str, Any]) -> bool:
    """Whether a manifest's entry of a table lists its files, and beside them only those of a tokenizer.

    Raises:
      KeyError, TypeError: it lacks something.
    """
    names = {file["name"] for file in entry["files"]}
    others = [Path(name) for name in names - {*FILES}]
    return (
        isinstance(entry["tokenizer"], str)
        and names >= {*FILES}
        and all(len(path.parts) == 2 and path.parts[0] == TOKENIZER and path.name != ".." for path in others)
        and all(file["sha256"] and file["bytes"] for file in entry["files"])
    )

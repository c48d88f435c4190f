"""Writes the table of token ids of prepared data; memory holds a block of texts."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Encoding
from transformers import PreTrainedTokenizerFast

from maxsearch.data.records import Interaction, Product
from maxsearch.data.text_rows import frame_of, printable
from maxsearch.data.tokenize import plain_backend, save_tokenizer, tokenizer_fingerprint
from maxsearch.data.tokens.table import (
    BEGINS,
    ENDS,
    GOES_ON,
    IDS,
    NO_WORD,
    PRODUCTS,
    QUERIES,
    TOKENIZER,
    TOKENS,
    WORDS,
)
from maxsearch.errors import UsageError
from maxsearch.files import account_of

BLOCK = 4096  # texts that are tokenised at a time
HELD = 2**19  # queries that are remembered, so that one which comes again is not written again


class GrowingArray:
    """An .npy file of one dimension whose length is known only in the end."""

    def __init__(self, path: Path, dtype: type[np.generic]) -> None:
        self.path = path
        self._dtype, self.count = np.dtype(dtype), 0
        self._stream = path.open("wb")
        self._header()

    def add(self, values: Sequence[int] | np.ndarray) -> None:
        """Appends values."""
        self._stream.write(np.asarray(values, self._dtype).tobytes())
        self.count += len(values)

    def close(self) -> None:
        """Completes the file."""
        self._stream.seek(0)
        self._header()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()

    def _header(self) -> None:
        # numpy leaves room for the longest length, so that a header of another length has the same size.
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self.count,)}
        np.lib.format.write_array_header_1_0(self._stream, header)


class _Writer:
    """Tokenises texts a block at a time and appends them to the table."""

    def __init__(self, folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
        self._backend = plain_backend(tokenizer)
        self.ids = GrowingArray(folder / IDS, np.uint16 if len(tokenizer) <= 2**16 else np.uint32)
        self.words = GrowingArray(folder / WORDS, np.uint8)
        self.ends = GrowingArray(folder / ENDS, np.int64)
        self.ends.add([0])
        self._waiting: list[str] = []

    def add(self, text: str) -> int:
        """Adds a text: its number."""
        number = self.count
        self._waiting.append(printable(text))
        if len(self._waiting) == BLOCK:
            self.flush()
        return number

    @property
    def count(self) -> int:
        """Texts that were added."""
        return self.ends.count - 1 + len(self._waiting)

    def flush(self) -> None:
        """Writes what still waits."""
        encodings = self._backend.encode_batch(self._waiting, add_special_tokens=False)
        if encodings:
            self.ends.add(np.cumsum([len(each) for each in encodings]) + self.ids.count)
            self.ids.add(np.concatenate([np.asarray(each.ids, np.int64) for each in encodings]))
            self.words.add(np.concatenate([np.asarray(_marks(each), np.uint8) for each in encodings]))
        self._waiting = []


def write_tokens(
    folder: Path, tokenizer: PreTrainedTokenizerFast, products: Iterable[Product], interactions: Iterable[Interaction]
) -> dict[str, Any]:
    """Writes the table and its tokenizer into a folder of prepared data.

    Args:
      folder: where the shards lie.
      tokenizer: one that `require_framing` lets pass.
      products: the products, in their order.
      interactions: the interactions, in theirs.

    Returns:
      {"tokenizer": its fingerprint, "texts", "tokens", "files": [{"name", "bytes", "sha256"}]}, as the manifest has it.
    """
    (folder / TOKENS).mkdir()
    save_tokenizer(tokenizer, folder / TOKENIZER)
    writer = _Writer(folder, tokenizer)
    firsts, queries = GrowingArray(folder / PRODUCTS, np.int64), GrowingArray(folder / QUERIES, np.int64)
    firsts.add([0])
    for product in products:
        for text in (product.title, *product.texts):
            writer.add(text)
        firsts.add([writer.count])
    numbers: dict[str, int] = {}
    for interaction in interactions:
        number = numbers.get(interaction.query)
        if number is None:
            if len(numbers) == HELD:
                numbers.clear()
            number = numbers[interaction.query] = writer.add(interaction.query)
        queries.add([number])
    writer.flush()
    arrays = (writer.ids, writer.words, writer.ends, firsts, queries)
    for array in arrays:
        array.close()
    paths = [*(array.path for array in arrays), *sorted((folder / TOKENIZER).iterdir())]
    return {
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "texts": writer.count,
        "tokens": writer.ids.count,
        "files": [account_of(path, folder) for path in paths],
    }


def require_framing(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    """Refuses a tokenizer that puts special tokens elsewhere than before and behind a text.

    Raises:
      UsageError: it does; `name` is what the user calls it.
    """
    if frame_of(plain_backend(tokenizer)) is None:
        raise UsageError(
            f"--tokenizer {name} does not put its special tokens before and behind a text, so its ids cannot be kept: "
            "leave the flag out, and give it to train as --data.tokenizer"
        )


def _marks(encoding: Encoding) -> list[int]:
    """How each token stands to its word."""
    marks, last = [], None
    for word in encoding.word_ids:
        marks.append(NO_WORD if word is None else GOES_ON if word == last else BEGINS)
        last = last if word is None else word
    return marks

"""Texts to token ids with the help of a table: a text that is shown whole is read, any other one is tokenised.

N texts, T token places, F text fields.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int32, Int64

from maxsearch.data.records import text_fields
from maxsearch.data.sources import RawExample
from maxsearch.data.tokenize import TextEncoder, tokenizer_fingerprint
from maxsearch.data.tokens.table import NO_TEXT, TokenTable


@runtime_checkable
class Tokenized(Protocol):
    """A source of examples whose data may have come with a table of token ids."""

    @property
    def tokens(self) -> TokenTable | None:
        """The table, None when the data came without."""


def table_of(source: object) -> TokenTable | None:
    """The table that a source's data came with; None for data without, and for a mixture."""
    return source.tokens if isinstance(source, Tokenized) else None


def table_for(source: object, tokenizer: Any) -> TokenTable | None:
    """The table of a source when it is one of this tokenizer, else None."""
    table = table_of(source)
    return table if table is not None and table.fingerprint == tokenizer_fingerprint(tokenizer) else None


class TableEncoder:
    """A `TextEncoder` that need not tokenise what stands in a table; gives the same, bit for bit."""

    def __init__(self, encoder: TextEncoder, table: TokenTable | None) -> None:
        """Joins the two.

        Args:
          encoder: with the tokenizer that the table is of.
          table: None for none; then every text is tokenised.
        """
        self._encoder, self._table = encoder, table
        self.max_tokens = encoder.max_tokens
        self._before, self._behind = (encoder.frame or ((), ())) if table is not None else ((), ())
        self._room = self.max_tokens - len(self._before) - len(self._behind)

    def __call__(
        self, texts: Sequence[str], numbers: Int64[np.ndarray, " N"] | None
    ) -> tuple[Int32[np.ndarray, "N T"], Bool[np.ndarray, "N T"]]:
        """As `TextEncoder`.

        Args:
          texts: N texts.
          numbers: of each text in the table; -1 for one that is to be tokenised. None for all of them.
        """
        if self._table is None or numbers is None:
            return self._encoder(texts)
        ids = np.full((len(texts), self.max_tokens), self._encoder.pad_id, np.int32)
        mask = np.zeros(ids.shape, bool)
        known, fresh = np.flatnonzero(numbers != NO_TEXT), np.flatnonzero(numbers == NO_TEXT)
        if len(fresh):
            ids[fresh], mask[fresh] = self._encoder([texts[i] for i in fresh.tolist()])
        found, lengths = self._table.ids(numbers[known], self._room)
        # One without tokens of its own gets no special ones.
        known, found, lengths = (x[lengths > 0] for x in (known, found, lengths))
        first = len(self._before)
        rows = np.zeros((len(known), self.max_tokens), np.int32)
        rows[:, :first] = self._before
        rows[:, first : first + self._room] = found
        behind = first + lengths[:, None] + np.arange(len(self._behind))
        np.put_along_axis(rows, behind, np.array(self._behind, np.int32)[None], axis=1)
        mask[known] = np.arange(self.max_tokens) < (first + lengths + len(self._behind))[:, None]
        ids[known] = np.where(mask[known], rows, self._encoder.pad_id)
        return ids, mask

    def words(self, texts: Sequence[str], numbers: Int64[np.ndarray, " N"] | None) -> Int32[np.ndarray, "N T"]:
        """As `TextEncoder.words`; the arguments are those of a call."""
        if self._table is None or numbers is None:
            return self._encoder.words(texts)
        found = np.full((len(texts), self.max_tokens), -1, np.int32)
        known, fresh = np.flatnonzero(numbers != NO_TEXT), np.flatnonzero(numbers == NO_TEXT)
        if len(fresh):
            found[fresh] = self._encoder.words([texts[i] for i in fresh.tolist()])
        first = len(self._before)
        found[known, first : first + self._room] = self._table.words(numbers[known], self._room)
        return found


def numbers_shown(
    table: TokenTable | None, examples: Sequence[RawExample], queries: Sequence[str], texts: Sequence[str], fields: int
) -> tuple[Int64[np.ndarray, " B"] | None, Int64[np.ndarray, " BF"] | None]:
    """The numbers of queries and of text fields in a table, as far as they are shown whole; -1 for all others.

    Args:
      table: None for none, which gives None twice.
      examples: B of them.
      queries: what is shown of their queries.
      texts: what is shown of their text fields, F of each.
      fields: F.
    """
    if table is None:
        return None, None
    asked = table.queries_of(np.array([example.interaction for example in examples], np.int64))
    asked[[shown != example.query for shown, example in zip(queries, examples, strict=True)]] = NO_TEXT
    told = table.fields_of(np.array([example.product for example in examples], np.int64), fields).reshape(-1)
    whole = (text for example in examples for text in text_fields(example.title, example.texts, fields))
    told[[shown != text for shown, text in zip(texts, whole, strict=True)]] = NO_TEXT
    return asked, told

"""Texts to padded rows of token ids, by a tokenizer's backend alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32
from tokenizers import Tokenizer

from maxsearch.errors import UsageError

MAX_CACHED_TEXTS = 200_000


def frame_of(backend: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The special tokens (before, behind) every text; None for a tokenizer that puts them elsewhere, or none fixed."""
    frames = set()
    for probe in ("a", "a b 1"):
        framed, own = backend.encode(probe), backend.encode(probe, add_special_tokens=False)
        if all(framed.special_tokens_mask):
            return None
        before = framed.special_tokens_mask.index(0)
        behind = framed.special_tokens_mask[::-1].index(0)
        end = len(framed) - behind
        if framed.ids[before:end] != own.ids[: end - before]:
            return None
        frames.add((tuple(framed.ids[:before]), tuple(framed.ids[end:])))
    return frames.pop() if len(frames) == 1 else None


def printable(text: str) -> str:
    """A text without lone surrogates, which a command line may bring and the tokenizer refuses."""
    return text.encode("utf-8", "replace").decode()


class TextRows:
    """Turns texts into padded token ids; cheap to pickle into worker processes.

    Rows are cached per text (up to 200,000), because the texts of a catalogue come back every epoch.
    """

    def __init__(self, backend: Tokenizer, max_tokens: int, pad_id: int) -> None:
        """Takes a copy of the tokenizer.

        Args:
          backend: the tokenizer. Special tokens are added as its own template says.
          max_tokens: T, the fixed length of a row; longer texts are cut.
          pad_id: fills rows up.

        Raises:
          UsageError: `max_tokens` is too small for the special tokens.
        """
        if max_tokens <= backend.num_special_tokens_to_add(False):
            raise UsageError(f"max_tokens {max_tokens} leaves no room for text: raise it")
        self.max_tokens, self.pad_id = max_tokens, pad_id
        self._backend = Tokenizer.from_str(backend.to_str())
        self._backend.enable_truncation(max_tokens)
        self._backend.no_padding()
        self._rows: dict[str, Int32[np.ndarray, "2 n"]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rows": {}}

    def __call__(self, texts: Sequence[str]) -> tuple[Int32[np.ndarray, "N T"], Bool[np.ndarray, "N T"]]:
        """Encodes N texts.

        Returns:
          ids int32 [N, T], filled with the padding id, and mask bool [N, T], True on tokens. A text without tokens of
          its own (empty, or spaces only) gives an all-False row, whatever special tokens the template adds.
        """
        known = self._known(texts)
        ids = np.full((len(texts), self.max_tokens), self.pad_id, np.int32)
        mask = np.zeros((len(texts), self.max_tokens), bool)
        for i, text in enumerate(texts):
            row = known[text][0]
            ids[i, : len(row)] = row
            mask[i, : len(row)] = True
        return ids, mask

    def words(self, texts: Sequence[str]) -> Int32[np.ndarray, "N T"]:
        """The number of the word in its text that each token belongs to; -1 for special tokens and behind the end."""
        known = self._known(texts)
        numbers = np.full((len(texts), self.max_tokens), -1, np.int32)
        for i, text in enumerate(texts):
            row = known[text][1]
            numbers[i, : len(row)] = row
        return numbers

    def lengths(self, texts: Sequence[str]) -> Int32[np.ndarray, " N"]:
        """How many tokens each text has, at most `max_tokens`."""
        known = self._known(texts)
        return np.array([known[text].shape[1] for text in texts], np.int32)

    @property
    def frame(self) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """The special tokens (before, behind) every text; see `frame_of`."""
        return frame_of(self._backend)

    def _known(self, texts: Sequence[str]) -> dict[str, Int32[np.ndarray, "2 n"]]:
        """Token ids and word numbers of each text."""
        rows = self._rows
        # Asked once each: another thread may clear the cache between two questions.
        known = {text: row for text in texts if (row := rows.get(text)) is not None}
        missing = list(dict.fromkeys(text for text in texts if text not in known))
        if missing:
            fresh = self._encode(missing)
            if len(rows) + len(fresh) > MAX_CACHED_TEXTS:
                rows.clear()
            rows.update(fresh)
            known.update(fresh)
        return known

    def _encode(self, texts: list[str]) -> dict[str, Int32[np.ndarray, "2 n"]]:
        encodings = self._backend.encode_batch([printable(text) for text in texts])
        empty = np.zeros((2, 0), np.int32)
        return {
            text: empty
            if all(encoding.special_tokens_mask)
            else np.asarray([encoding.ids, _numbered(encoding.word_ids)], np.int32)
            for text, encoding in zip(texts, encodings, strict=True)
        }


def _numbered(words: list[int | None]) -> list[int]:
    """Words numbered anew without gaps, so that the numbers stay below that of the tokens; -1 for special tokens."""
    places = {word: place for place, word in enumerate(sorted({word for word in words if word is not None}))}
    return [-1 if word is None else places[word] for word in words]

"""The BM25 leg: a built index of the catalogue's words, and the same scores for products that came later.

BM25 as Lucene has it (Kamphuis et al., ECIR 2020): a word adds idf * tf / (tf + k1 * (1 - b + b * length / average)),
idf = ln(1 + (N - df + 0.5) / (df + 0.5)). bm25s computes it at build time (Lù, 2024); of the later products it is
computed with N, df and average of the built index, so that both compare.

Letters: N rows.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import bm25s
import numpy as np
from jaxtyping import Float32, Int64

from maxsearch.errors import MaxsearchError
from maxsearch.files import directory_in_place
from maxsearch.manifest import FolderKind, read_manifest, require_replaceable, write_manifest
from maxsearch.serving.filters.masks import Selection
from maxsearch.serving.hybrid.words import Words
from maxsearch.serving.nearest import largest

SCORES = ("data.csc.index.npy", "indices.csc.index.npy", "indptr.csc.index.npy")
VOCABULARY, PARAMETERS = "vocab.index.json", "params.index.json"
FREQUENCIES = "frequencies.npy"
"""Of the index that a shard is of: in how many documents each word is."""

LEXICAL = FolderKind(
    name="maxsearch-lexical",
    what="lexical index",
    schema_version=1,
    remedy="build the index again with `maxsearch index build`",
    required=(),
    fields={"count": int, "words": int, "average_length": float, "settings": dict},
)


@dataclass(frozen=True)
class LexicalSettings:
    """What decides the scores.

    Attributes:
      words: how words are read.
      k1: how slowly further occurrences of a word stop adding.
      b: how much long documents are held back, from 0 to 1.
      attributes: those whose values count as text.
    """

    words: Words = field(default_factory=Words)
    k1: float = 1.5
    b: float = 0.75
    attributes: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "LexicalSettings":
        """Reverses `asdict`."""
        return cls(Words(**value["words"]), float(value["k1"]), float(value["b"]), tuple(value["attributes"]))


@runtime_checkable
class LexicalLeg(Protocol):
    """BM25 over the rows of one segment."""

    def __len__(self) -> int: ...

    def scores(self, words: Sequence[str]) -> Float32[np.ndarray, " N"]:
        """Every row's score for the words of a query; 0 where it has none of them."""
        ...


class BuiltLexical:
    """BM25 over a built index; safe for several threads.

    Args:
      model: the scores by word; None where no document has a word.
      count: documents.
      average_length: words per document.
      settings: what it was built with.
      whole: for a shard of an index, how many documents that has, and in how many of them each word is.

    Attributes:
      settings: what it was built with.
      average_length: words per document.
    """

    def __init__(
        self,
        model: bm25s.BM25 | None,
        count: int,
        average_length: float,
        settings: LexicalSettings,
        whole: tuple[int, Int64[np.ndarray, " W"]] | None = None,
    ) -> None:
        self._model, self._count = model, count
        self._documents = count if whole is None else whole[0]
        self._frequencies = None if whole is None else whole[1]
        self.average_length, self.settings = average_length, settings

    def __len__(self) -> int:
        return self._count

    def scores(self, words: Sequence[str]) -> Float32[np.ndarray, " N"]:
        """See `LexicalLeg`."""
        if self._model is None or not (found := self._model.get_tokens_ids(list(words))):
            return np.zeros(self._count, np.float32)
        return self._model.get_scores_from_ids(found)

    def weight(self, word: str) -> float:
        """The idf of a word; of one that no document has, that of one that a single document has."""
        frequency = 1
        if self._model is not None and word in self._model.vocab_dict:
            starts, token = self._model.scores["indptr"], self._model.vocab_dict[word]
            known = starts[token + 1] - starts[token] if self._frequencies is None else self._frequencies[token]
            frequency = max(int(known), 1)
        return math.log(1 + (max(self._documents, 1) - frequency + 0.5) / (frequency + 0.5))

    def split(self, shards: Sequence[Int64[np.ndarray, " _"]], folders: Sequence[Path]) -> None:
        """Writes the lexical index of some of its rows into each folder, with the scores that they have here.

        Args:
          shards: ascending rows of each.
          folders: an empty folder for each.
        """
        for rows, folder in zip(shards, folders, strict=True):
            if self._model is not None:
                scores = self._model.scores
                starts = np.asarray(scores["indptr"], np.int64)
                frequencies = starts[1:] - starts[:-1]
                place = np.full(self._count, -1, np.int64)
                place[rows] = np.arange(len(rows))
                of = place[scores["indices"]]
                words = np.repeat(np.arange(len(frequencies)), frequencies)[of >= 0]
                part = copy(self._model)
                part.scores = {
                    "data": np.asarray(scores["data"])[of >= 0],
                    "indices": of[of >= 0].astype(scores["indices"].dtype),
                    "indptr": np.concatenate([[0], np.cumsum(np.bincount(words, minlength=len(frequencies)))]).astype(
                        scores["indptr"].dtype
                    ),
                    "num_docs": len(rows),
                }
                part.save(folder, show_progress=False)
                np.save(folder / FREQUENCIES, frequencies)
            fields = {
                "count": len(rows),
                "words": 0 if self._model is None else len(self._model.vocab_dict),
                "average_length": self.average_length,
                "settings": asdict(self.settings),
                "documents": self._documents,
            }
            write_manifest(folder, LEXICAL, fields)


class LateLexical:
    """BM25 over documents that came after the index was built.

    Args:
      built: the index, whose statistics and settings count.
      documents: their texts, in the order of the rows.
    """

    def __init__(self, built: BuiltLexical, documents: Sequence[str]) -> None:
        self._built = built
        counts = [Counter(words) for words in built.settings.words.of(documents)]
        k1, b, average = built.settings.k1, built.settings.b, built.average_length or 1.0
        self._held_back = [k1 * (1 - b + b * words.total() / average) for words in counts]
        self._rows: dict[str, list[tuple[int, int]]] = {}
        for row, words in enumerate(counts):
            for word, times in words.items():
                self._rows.setdefault(word, []).append((row, times))

    def __len__(self) -> int:
        return len(self._held_back)

    def scores(self, words: Sequence[str]) -> Float32[np.ndarray, " N"]:
        """See `LexicalLeg`."""
        found = np.zeros(len(self), np.float32)
        for word in words:
            weight = self._built.weight(word)
            for row, times in self._rows.get(word, ()):
                found[row] += weight * times / (times + self._held_back[row])
        return found


def build_lexical(documents: Iterable[str], out: Path, settings: LexicalSettings | None = None) -> dict[str, Any]:
    """Builds the BM25 index of a catalogue: a folder with checksums and without pickle, there whole or not at all.

    Args:
      documents: one text per row; may be empty.
      out: the folder; an older lexical index there is replaced.
      settings: what decides the scores.

    Returns:
      The manifest.

    Raises:
      UsageError: another folder stands at `out`.
    """
    settings = settings or LexicalSettings()
    require_replaceable(out, [LEXICAL])
    words = settings.words.of(list(documents))
    total = sum(map(len, words))
    with directory_in_place(out) as draft:
        if total:
            model = bm25s.BM25(k1=settings.k1, b=settings.b, method="lucene")
            model.index(words, show_progress=False)
            model.save(draft, show_progress=False)
        fields = {
            "count": len(words),
            "words": len(set(chain.from_iterable(words))),
            "average_length": total / max(len(words), 1),
            "settings": asdict(settings),
        }
        return write_manifest(draft, LEXICAL, fields)


def open_lexical(folder: Path, *, checksums: bool = True) -> BuiltLexical:
    """Opens what `build_lexical` wrote.

    Args:
      folder: the folder.
      checksums: also compare each file's SHA-256.

    Raises:
      MaxsearchError: no such folder, another schema version, or a file that is missing or altered.
    """
    manifest = read_manifest(folder, LEXICAL, checksums=checksums)
    try:
        settings, model, whole = LexicalSettings.from_json(manifest["settings"]), None, None
        if manifest["words"]:
            for name in (*SCORES, VOCABULARY, PARAMETERS):
                if name not in manifest["files"]:
                    raise ValueError(f"its manifest does not list {name}")
            model = bm25s.BM25.load(folder, mmap=True, allow_pickle=False, show_progress=False)
            if model.scores["num_docs"] != manifest["count"]:
                raise ValueError("its files hold another number of documents than its manifest says")
            if FREQUENCIES in manifest["files"]:
                whole = manifest["documents"], np.load(folder / FREQUENCIES, allow_pickle=False)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise MaxsearchError(
            f"the lexical index {folder} cannot be read ({str(error).splitlines()[0]}): {LEXICAL.remedy}"
        ) from None
    return BuiltLexical(model, manifest["count"], manifest["average_length"], settings, whole)


def best_by_words(
    legs: Sequence[LexicalLeg], selections: Sequence[Selection], words: Sequence[str], k: int
) -> tuple[Int64[np.ndarray, " n"], Float32[np.ndarray, " n"], Float32[np.ndarray, " N"]]:
    """The k best rows that have some word of the query, over all segments.

    Args:
      legs: one per segment.
      selections: the rows of each that may be returned.
      words: of the query.
      k: how many at most.

    Returns:
      rows numbered over all segments, best first, equal scores by row; their scores; and every row's score.
    """
    every = np.concatenate([leg.scores(words) for leg in legs])
    kept = np.concatenate([selection.mask for selection in selections]) & (every > 0)
    rows = np.flatnonzero(kept)
    best = rows[largest(every[rows], k)] if len(rows) else rows
    return best, every[best], every

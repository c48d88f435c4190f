"""Texts as counts of their words, collected while a catalogue streams past."""

import logging
from collections.abc import Iterable, Iterator

import bm25s
import numpy as np
import Stemmer
from scipy import sparse

logging.getLogger("bm25s").setLevel(logging.WARNING)  # its import sets DEBUG, which reaches the terminal


class Vocabulary:
    """Numbers the words that it meets: English Snowball stems of two letters and more, without stop words."""

    def __init__(self) -> None:
        self._tokenizer = bm25s.tokenization.Tokenizer(stemmer=Stemmer.Stemmer("english"), stopwords="en")

    def __len__(self) -> int:
        return len(self._tokenizer.stem_to_sid)

    def numbers(self, texts: Iterable[str], *, grow: bool = True) -> Iterator[list[int]]:
        """The words of each text, in order; new ones get a number where the vocabulary may grow, else are left out."""
        return self._tokenizer.streaming_tokenize(texts, update_vocab=grow, allow_empty=False)


class WordCounts:
    """How often each text has each word; memory is 4 bytes a word of the texts until `matrix`, which takes 12."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._words: list[np.ndarray] = [np.empty(0, np.int32)]
        self._lengths: list[np.ndarray] = [np.empty(0, np.int64)]

    def add(self, texts: Iterable[str]) -> None:
        """Takes the next texts."""
        numbers = list(self._vocabulary.numbers(texts))
        self._lengths.append(np.fromiter(map(len, numbers), np.int64, len(numbers)))
        self._words.append(np.fromiter((word for text in numbers for word in text), np.int32))

    def matrix(self) -> sparse.csr_matrix:
        """The counts (texts, words of the vocabulary so far), each word once in a row."""
        words, lengths = np.concatenate(self._words), np.concatenate(self._lengths)
        self._words, self._lengths = [words], [lengths]
        starts = np.append(0, np.cumsum(lengths))
        ones = np.ones(len(words), np.float32)
        counts = sparse.csr_matrix((ones, words.copy(), starts), shape=(len(lengths), len(self._vocabulary)))
        counts.sum_duplicates()
        return counts

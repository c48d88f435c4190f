"""Keywords: the words that shoppers ask for, and which of them a text holds.

B examples.
"""

import re
import threading
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import Stemmer
from jaxtyping import Int32
from tokenizers import Regex, Tokenizer, pre_tokenizers

from maxsearch.errors import MaxsearchError
from maxsearch.files import read_json, write_json

KEYWORDS = "keywords.json"
MIN_COUNT = 2
QUERY_KEYWORDS = 16
PRODUCT_KEYWORDS = 48
TOKENS_PER_WORD = 4

# Words that say nothing about a product. Negations are none of them: "no collar" must not match a collar.
_STOP = """
a an and are as at be but by for from her his i if in into is it its me my of on or our such that the their them then
there these they this those to was we were will with you your
"""
STOP_WORDS = frozenset(_STOP.split())
_POSSESSIVE = re.compile(r"(?<=\w)['\u2019]s\b")
_LOCAL = threading.local()  # a stemmer may not be shared between threads
_WORDS = pre_tokenizers.Split(Regex(r"[\p{L}\p{M}\p{N}]+"), "removed", invert=True)


def normalized(text: str) -> str:
    """Text whose case, width and spaces do not count: NFKC, case-folded, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@lru_cache(maxsize=2**17)
def words_of(text: str) -> tuple[str, ...]:
    """The words of a text in order: runs of letters, marks and digits of the normalised text, without a possessive 's.

    Where a script sets no spaces, a run of its letters is one word.
    """
    plain = _POSSESSIVE.sub("", normalized(text)).encode("utf-8", "replace").decode()
    return tuple(word for word, _ in _WORDS.pre_tokenize_str(plain))


@lru_cache(maxsize=2**17)
def stem(word: str) -> str:
    """What the forms of an English word share, by Snowball's stemmer: a shoe answers a query for shoes."""
    if not hasattr(_LOCAL, "stemmer"):
        _LOCAL.stemmer = Stemmer.Stemmer("english")
    return str(_LOCAL.stemmer.stemWord(word))


def may_be_keyword(word: str) -> bool:
    """Whether a word may enter a lexicon: no stop word, and no number alone."""
    return word not in STOP_WORDS and not word.isnumeric()


Form = tuple[int, int, str]
"""A word by which keywords are ranked: minus the queries and minus the titles that hold it, and the word."""


def merged_forms(forms: Collection[Form]) -> Form:
    """The forms of one word as one: counts added up under the most used form."""
    return sum(form[0] for form in forms), sum(form[1] for form in forms), min(forms)[2]


def is_frequent(form: Form) -> bool:
    """Whether a word stands in texts enough to be a keyword."""
    return form[0] + form[1] <= -MIN_COUNT


@dataclass(frozen=True)
class Lexicon:
    """The keywords by their ids, those that shoppers use most first; forms of one word are one keyword.

    Attributes:
      words: the most used form of each.
    """

    words: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {stem(word): place for place, word in enumerate(self.words)}

    @classmethod
    def ranked(cls, queries: Mapping[str, int], titles: Mapping[str, int], size: int) -> "Lexicon":
        """The most used words.

        Words of queries come first, by the number of distinct queries that hold them, whatever their clicks: the words
        of one popular query should not displace those of a hundred rare ones. Words of titles alone follow.

        Args:
          queries: in how many distinct queries a word stands; those of its forms are added up.
          titles: in how many titles it stands.
          size: keep at most this many; only words that stand in 2 texts or more.
        """
        forms: dict[str, list[Form]] = {}
        for word in filter(may_be_keyword, {**queries, **titles}):
            forms.setdefault(stem(word), []).append((-queries.get(word, 0), -titles.get(word, 0), word))
        ranked = sorted(filter(is_frequent, map(merged_forms, forms.values())))
        return cls(tuple(word for _, _, word in ranked[:size]))

    @classmethod
    def of_queries(cls, queries: Iterable[str], size: int) -> "Lexicon":
        """The most used words of texts that are all taken for queries."""
        return cls.ranked(count_words(queries), {}, size)

    def top(self, size: int) -> "Lexicon":
        """The first `size` keywords."""
        return Lexicon(self.words[:size])

    def ids(self, *texts: str) -> list[int]:
        """Ids of the keywords in these texts, each once, in the order of their first occurrence."""
        places = self._places
        found = (places.get(stem(word)) for text in texts for word in words_of(text))
        return list(dict.fromkeys(place for place in found if place is not None))

    def covers(self, text: str) -> bool:
        """Whether the text has words, and all but the stop words are keywords: a number leaves it uncovered."""
        content = [word for word in words_of(text) if word not in STOP_WORDS]
        return bool(content) and all(stem(word) in self._places for word in content)

    def of_query(self, text: str) -> tuple[Int32[np.ndarray, " 16"], bool]:
        """The ids of a query's keywords, filled up with -1, and whether they are all that it asks for.

        When they are, a product that has every one of them answers the query.
        """
        ids = self.ids(text)
        return padded(ids, QUERY_KEYWORDS), len(ids) <= QUERY_KEYWORDS and self.covers(text)

    def save(self, path: Path) -> None:
        """Writes the keywords as JSON."""
        write_json(path, {"words": self.words})

    @classmethod
    def load(cls, path: Path, *, remedy: str) -> "Lexicon":
        """Reads what `save` wrote.

        Args:
          path: the file.
          remedy: what a user should do when it is absent or broken.

        Raises:
          MaxsearchError: it is absent, or holds no keywords.
        """
        value = read_json(path, what="keywords file", remedy=remedy)
        words = value.get("words") if isinstance(value, dict) else None
        if (
            not isinstance(words, list)
            or not all(isinstance(word, str) and word for word in words)
            or len(set(map(stem, words))) < len(words)
        ):
            raise MaxsearchError(f"the keywords file {path} does not list words that differ: {remedy}")
        return cls(tuple(words))


def count_words(texts: Iterable[str]) -> dict[str, int]:
    """In how many texts each word stands; texts that differ in case, width or spaces only count once."""
    counts: dict[str, int] = {}
    for text in dict.fromkeys(map(normalized, texts)):
        for word in set(words_of(text)):
            counts[word] = counts.get(word, 0) + 1
    return counts


def padded(ids: Sequence[int], size: int) -> Int32[np.ndarray, " size"]:
    """The first `size` ids, filled up with -1."""
    row = np.full(size, -1, np.int32)
    kept = ids[:size]
    row[: len(kept)] = kept
    return row


def token_rows(lexicon: Lexicon, tokenizer: Any, size: int) -> tuple[tuple[int, ...], ...]:
    """The token ids of the first `size` keywords, at most 4 of each, as a fast tokenizer cuts them within a text."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_padding()
    backend.no_truncation()
    # A foreign tokenizer may drop a word as a whole, and a keyword needs a token.
    unknown = tokenizer.pad_token_id if tokenizer.unk_token_id is None else tokenizer.unk_token_id
    encodings = backend.encode_batch(list(lexicon.words[:size]), add_special_tokens=False)
    return tuple(tuple(encoding.ids[:TOKENS_PER_WORD]) or (int(unknown),) for encoding in encodings)

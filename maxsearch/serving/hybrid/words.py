"""From texts to the words that BM25 counts: lower case, two characters or more, no stop words, stemmed."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import bm25s
import Stemmer

from maxsearch.errors import UsageError

logging.getLogger("bm25s").setLevel(logging.WARNING)  # its import sets DEBUG, which reaches the terminal

LANGUAGES = (
    "english",
    "danish",
    "dutch",
    "french",
    "german",
    "italian",
    "norwegian",
    "portuguese",
    "russian",
    "spanish",
    "swedish",
    "turkish",
)
ANY = "none"
"""The language of texts in several: words are kept as they are."""


@dataclass(frozen=True)
class Words:
    """How words are read.

    Attributes:
      language: of the Snowball stemmer and the stop words, or "none".
    """

    language: str = "english"

    def __post_init__(self) -> None:
        if self.language not in (*LANGUAGES, ANY):
            raise UsageError(
                f"there is no stemmer for the language {self.language!r}: choose one of {', '.join(LANGUAGES)}, "
                f"or {ANY} to keep words as they are"
            )

    def of(self, texts: Sequence[str]) -> list[list[str]]:
        """The words of each text, in order, repeated where they are."""
        if not texts:
            return []
        # A stemmer of its own for each call: they may not be used by two threads at once.
        stemmer = None if self.language == ANY else Stemmer.Stemmer(self.language)
        stopwords = [] if self.language == ANY else self.language
        return bm25s.tokenize(list(texts), stopwords=stopwords, stemmer=stemmer, return_ids=False, show_progress=False)


def document(title: str, texts: Sequence[str], attributes: Mapping[str, str], names: Sequence[str]) -> str:
    """What of a product is searched by words.

    Args:
      title: the title.
      texts: its further texts.
      attributes: all of its attributes.
      names: those whose values count.
    """
    return " ".join(part for part in (title, *texts, *(attributes.get(name, "") for name in names)) if part)

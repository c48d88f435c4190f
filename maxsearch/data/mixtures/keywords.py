"""One lexicon for several datasets, each of which came with its own."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from maxsearch.data.keywords import Lexicon, stem


def merged(lexicons: Sequence[tuple[Lexicon, float]]) -> Lexicon:
    """The words of all lexicons, those that shoppers of the mixture use most first.

    A lexicon tells the order of its words and not how often they are used, so Zipf's law has to: the word of rank r is
    used 1 / r as often as the first (ours).

    Args:
      lexicons: each with its dataset's share of the mixture.
    """
    uses: dict[str, float] = {}
    best: dict[str, tuple[float, str]] = {}
    for lexicon, share in lexicons:
        for rank, word in enumerate(lexicon.words, 1):
            use, root = share / rank, stem(word)
            uses[root] = uses.get(root, 0.0) + use
            if root not in best or use > best[root][0]:
                best[root] = (use, word)
    return Lexicon(tuple(best[root][1] for root in sorted(uses, key=lambda root: (-uses[root], root))))


def translation(lexicon: Lexicon, into: Lexicon) -> Int64[np.ndarray, " V"]:
    """The id in `into` of each keyword of a lexicon of which it has all words."""
    places = {stem(word): place for place, word in enumerate(into.words)}
    return np.array([places[stem(word)] for word in lexicon.words], np.int64)

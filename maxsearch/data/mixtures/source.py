"""A mixture of datasets: one source of examples that draws from each as its schedule says.

What the datasets number by themselves is kept apart: rows of products, variant groups and keywords of two datasets are
never taken for one another. Queries are compared by their text, as within one dataset: who asks the same words wants
the same products, so such products are no negatives of one another.

k draws, P datasets.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from jaxtyping import Int64

from maxsearch.data.keywords import Lexicon
from maxsearch.data.mixtures.keywords import merged, translation
from maxsearch.data.mixtures.turns import Turns
from maxsearch.data.sources import NO_PRODUCT, ExampleSource, RawExample, digest
from maxsearch.errors import UsageError

MOST_PRODUCTS = 2**31  # rows are int32
GROUPS = 2**56  # more draws than any dataset gives


class MixtureSource:
    """Several sources as one.

    Attributes:
      names: of the datasets, in the order of the turns.
    """

    def __init__(
        self, parts: Mapping[str, ExampleSource], turns: Turns, shares: Sequence[float], schedule: object
    ) -> None:
        """Joins the sources.

        Args:
          parts: by name.
          turns: whose turn each draw is, by the order of the parts.
          shares: of the parts over the whole schedule; tokenizer and keywords are learned from the parts in these.
          schedule: what the turns were made of, for the fingerprint.

        Raises:
          UsageError: two parts are the same data, or there are too many products.
        """
        self.names = tuple(parts)
        self._parts, self._turns, self._shares = tuple(parts.values()), turns, tuple(shares)
        prints = [part.fingerprint for part in self._parts]
        for place, fingerprint in enumerate(prints):
            if fingerprint in prints[:place]:
                raise UsageError(
                    f"--data {self.names[prints.index(fingerprint)]} and {self.names[place]} are the same data: give "
                    "each once, with one weight"
                )
        ends = np.cumsum([(0, 0), *(part.sizes for part in self._parts)], axis=0)
        self._offsets: Int64[np.ndarray, "P 2"] = ends[:-1].astype(np.int64)
        self._sizes = (int(ends[-1][0]), int(ends[-1][1]))
        if self._sizes[1] > MOST_PRODUCTS:
            raise UsageError(
                f"the datasets of --data hold {self._sizes[1]:,} products together, and rows are numbered up to "
                f"{MOST_PRODUCTS:,}: leave one out"
            )
        self.fingerprint = digest("mixture", list(zip(self.names, prints, strict=True)), schedule)

    def __len__(self) -> int:
        """The draws of all datasets' epochs together."""
        return sum(len(part) for part in self._parts)

    @cached_property
    def lexicon(self) -> Lexicon | None:
        """The keywords of all datasets that came with some."""
        found = [(part.lexicon, share) for part, share in zip(self._parts, self._shares, strict=True) if part.lexicon]
        return merged(found) if found else None

    @cached_property
    def _translations(self) -> list[Int64[np.ndarray, " V"] | None]:
        lexicon = self.lexicon
        return [translation(part.lexicon, lexicon) if part.lexicon and lexicon else None for part in self._parts]

    def examples(self, draws: Sequence[int]) -> Iterator[RawExample]:
        """The examples of these draws, in this order."""
        turns, numbers = self._turns.of(draws)
        found = [part.examples(numbers[turns == place].tolist()) for place, part in enumerate(self._parts)]
        for place in turns.tolist():
            yield self._own(next(found[place]), place)

    def _own(self, example: RawExample, place: int) -> RawExample:
        """An example of one dataset with numbers that no other dataset has; a masked one stays as it is."""
        if example.product == NO_PRODUCT:
            return example
        table, keywords = self._translations[place], example.keywords
        if table is not None and self.lexicon is not None and keywords is not None:
            # Its texts may hold words that only another dataset's lexicon has.
            more = self.lexicon.ids(example.title, *example.texts)
            keywords = tuple(dict.fromkeys([*table[list(keywords)].tolist(), *more]))
        return replace(
            example,
            product=example.product + int(self._offsets[place, 1]),
            variant=f"{self.names[place]}/{example.variant}" if example.variant else "",
            keywords=keywords,
        )

    def texts(self) -> Iterator[str]:
        """The texts of each dataset, repeated or left out so that they count as often as they are drawn.

        A dataset whose epochs are gone through twice as often as another's counts twice as often, text by text.
        """
        for part, share in zip(self._parts, self._shares, strict=True):
            rate, due = share * len(self) / len(part), 0.0
            for text in part.texts() if share else ():
                due += rate
                for _ in range(int(due)):
                    yield text
                due %= 1

    @property
    def sizes(self) -> tuple[int, int]:
        """How many queries and products there are."""
        return self._sizes

    def pairs(self, draws: Sequence[int]) -> Int64[np.ndarray, "k 2"]:
        """The number of each draw's query, and of its product."""
        turns, numbers = self._turns.of(draws)
        found = np.empty((len(turns), 2), np.int64)
        for place, part in enumerate(self._parts):
            here = turns == place
            found[here] = part.pairs(numbers[here].tolist()) + self._offsets[place]
        return found

    def groups(self, draws: Sequence[int]) -> Int64[np.ndarray, " k"]:
        """Equal for draws that belong into one batch."""
        turns, numbers = self._turns.of(draws)
        found = np.empty(len(turns), np.int64)
        for place, part in enumerate(self._parts):
            here = turns == place
            found[here] = part.groups(numbers[here].tolist()) + place * GROUPS
        return found

    def query_texts(self) -> Iterator[Sequence[str]]:
        """What may be said as each query."""
        for part in self._parts:
            yield from part.query_texts()

    def product_texts(self) -> Iterator[Sequence[str]]:
        """The text fields of each product."""
        for part in self._parts:
            yield from part.product_texts()

    def progress(self, draw: int) -> dict[str, float]:
        """What is logged when the draws below this one are done: epochs of each dataset, and its share."""
        done, shares = self._turns.before(draw), self._turns.shares(draw)
        epochs = {
            f"epoch/{name}": float(count) / len(part)
            for name, count, part in zip(self.names, done, self._parts, strict=True)
        }
        return epochs | {f"share/{name}": float(share) for name, share in zip(self.names, shares, strict=True)}

"""What every row of an evaluation's table is: something that ranks a catalogue which it sees once, in order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int

from maxsearch.data.records import Product
from maxsearch.evaluation.retrieval import Ranking, TopK


@dataclass(frozen=True)
class Task:
    """What a ranker is asked.

    Attributes:
      queries: their texts.
      k: ranks per query.
      judged: position of each product whose score with a query may be asked for, by its identifier.
      memory: bytes that an exact search may take; None for what it takes by itself.
    """

    queries: Sequence[str]
    k: int
    judged: Mapping[str, int]
    memory: int | None = None


@runtime_checkable
class Ranker(Protocol):
    """Ranks a catalogue that is read once, in order: first `start`, then `add` batch by batch, then what was found."""

    name: str

    def start(self, task: Task) -> None:
        """Takes the queries, before any product.

        Raises:
          MaxsearchError: what it ranks with cannot be loaded.
        """
        ...

    def add(self, products: Sequence[Product]) -> None:
        """Takes the next products of the catalogue."""
        ...

    def ranking(self) -> Ranking:
        """The best products of each query, by their position in the catalogue; K is at most its size."""
        ...

    def scores(self, pairs: Int[np.ndarray, "n 2"]) -> Float32[np.ndarray, " n"]:
        """The score of each (position of the query, position of the judged product); NaN where it has none.

        A judged product that the catalogue does not hold has none.
        """
        ...


class VectorRanking:
    """The part of a ranker that ranks by inner product, whatever gives the vectors.

    Args:
      task: what is asked; vectors of its judged products are kept.
      queries: one vector per query of the task.
    """

    def __init__(self, task: Task, queries: Float32[np.ndarray, "Q D"]) -> None:
        self._task, self._queries = task, queries
        self._best = TopK(queries, task.k, memory=task.memory)
        self._kept = np.full((len(task.judged), queries.shape[1]), np.nan, np.float32)

    def add(self, identifiers: Sequence[str], vectors: Float32[np.ndarray, "N D"]) -> None:
        """Takes the next products' vectors."""
        self._best.add(vectors)
        for row, identifier in enumerate(identifiers):
            place = self._task.judged.get(identifier)
            if place is not None:
                self._kept[place] = vectors[row]

    def ranking(self) -> Ranking:
        """As `Ranker`."""
        return self._best.ranking()

    def scores(self, pairs: Int[np.ndarray, "n 2"]) -> Float32[np.ndarray, " n"]:
        """As `Ranker`."""
        return np.einsum("nd,nd->n", self._queries[pairs[:, 0]], self._kept[pairs[:, 1]], dtype=np.float32)

"""The lengths that batches are padded to: few, because each is compiled, and well chosen, because the rest is waste.

S shapes, L levels of length, k examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

LEVELS = 32  # lengths of one text that are considered


@dataclass(frozen=True)
class Shape:
    """Token places of a query, and of each text field of a product."""

    query: int
    title: int

    def places(self, fields: int) -> int:
        """Token places of an example."""
        return self.query + fields * self.title

    def holds(self, other: "Shape") -> bool:
        """Whether whatever fits into the other fits into this one."""
        return other.query <= self.query and other.title <= self.title


def choose_shapes(lengths: Int64[np.ndarray, "k 2"], longest: Shape, limit: int, fields: int = 1) -> list[Shape]:
    """Shapes that leave few places empty, the most useful first.

    The first is the longest, into which all fits; each further one is that which saves most places when every example
    goes to the smallest shape that holds it (greedy; ours).

    Args:
      lengths: tokens of the query and of the longest text field of examples.
      longest: of all examples.
      limit: at most so many; fewer when another one saves nothing.
      fields: text fields of a product.
    """
    queries, titles = _levels(lengths[:, 0], longest.query), _levels(lengths[:, 1], longest.title)
    counts = np.zeros((len(queries), len(titles)), np.int64)
    np.add.at(counts, (np.searchsorted(queries, lengths[:, 0]), np.searchsorted(titles, lengths[:, 1])), 1)
    price = queries[:, None] + fields * titles[None, :]
    cheapest = np.full_like(price, longest.places(fields))
    shapes = [longest]
    while len(shapes) < limit:
        saved = np.array(
            [
                [
                    (counts[: i + 1, : j + 1] * np.maximum(cheapest[: i + 1, : j + 1] - price[i, j], 0)).sum()
                    for j in range(len(titles))
                ]
                for i in range(len(queries))
            ]
        )
        i, j = np.unravel_index(int(saved.argmax()), saved.shape)
        if not saved[i, j]:
            break
        cheapest[: i + 1, : j + 1] = np.minimum(cheapest[: i + 1, : j + 1], price[i, j])
        shapes.append(Shape(int(queries[i]), int(titles[j])))
    return shapes


def smallest_first(shapes: Sequence[Shape], fields: int) -> list[Shape]:
    """The shapes by rising size, so that each that holds another one comes behind it."""
    return sorted(shapes, key=lambda shape: (shape.places(fields), shape.query))


def smallest_that_hold(shapes: Sequence[Shape], lengths: Int64[np.ndarray, "k 2"]) -> Int64[np.ndarray, " k"]:
    """The first shape that holds each example; what none holds goes to the last, and is cut."""
    fits: Bool[np.ndarray, "k S"] = np.stack(
        [(lengths[:, 0] <= shape.query) & (lengths[:, 1] <= shape.title) for shape in shapes], axis=1
    )
    fits[:, -1] = True
    return fits.argmax(axis=1).astype(np.int64)


def _levels(lengths: Int64[np.ndarray, " k"], longest: int) -> Int64[np.ndarray, " L"]:
    """Rising lengths, the last one the longest: all that occur, or as many quantiles of them."""
    found = np.unique(np.concatenate([np.clip(lengths, 1, longest), [longest]]))
    if len(found) > LEVELS:
        picks = np.quantile(np.clip(lengths, 1, longest), np.arange(1, LEVELS) / LEVELS, method="higher")
        found = np.unique(np.concatenate([picks.astype(np.int64), [longest]]))
    return found.astype(np.int64)

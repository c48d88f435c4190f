"""What a hybrid search returns of each product: its rank, its score, and what every leg said."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Legs:
    """Each leg's score of a product; None where the leg was not asked.

    Attributes:
      dense: inner product with the query's vector.
      lexical: BM25; 0 where the product has none of the query's words.
      refined: inner product with the refined vector.
      match: of the matching head; asked for the first ranks only.
    """

    dense: float | None = None
    lexical: float | None = None
    refined: float | None = None
    match: float | None = None


@dataclass(frozen=True)
class HybridHit:
    """One result.

    Attributes:
      product_id: the product.
      rank: from 1, over all pages.
      score: what it was ranked by; None for a pinned product that no leg found.
      legs: what each leg said.
      variants: how many more products of its variant group the filter keeps.
      pinned: whether it stands here because it was pinned.
      exact: whether no better product was missed.
    """

    product_id: str
    rank: int
    score: float | None
    legs: Legs
    variants: int
    pinned: bool
    exact: bool

    def to_json(self) -> dict[str, Any]:
        """As a response has it."""
        return asdict(self)

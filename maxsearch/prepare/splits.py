"""Training, dev and test parts by a stable hash: the same on every machine, whatever the order or number of records.

Products and queries are held out each on their own, so that a held-out part has what Marqo-GS-10M (Zhu et al.,
"Generalized Contrastive Learning for Multi-Modal Retrieval and Ranking", 2024, section 3) tells apart: queries and
products that training saw, in pairs that it did not see, new queries, new products, and both at once.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from maxsearch.data.keywords import normalized
from maxsearch.errors import MaxsearchError, UsageError

TRAIN = "train"
HELD_OUT = ("dev", "test")
IN_DOMAIN, NOVEL_QUERY, NOVEL_PRODUCT, ZERO_SHOT = CONDITIONS = (
    "in_domain",
    "novel_query",
    "novel_product",
    "zero_shot",
)


@dataclass(frozen=True)
class Splits:
    """How records are dealt out.

    Attributes:
      shares: {part: share} of the held-out parts, of the products, of the queries, and of the pairs of training
        products and training queries alike.
    """

    shares: Mapping[str, float]

    def of_product(self, product_id: str, variant: str) -> str:
        """The part of a product. All of a variant group share one, or its training half would tell of the other."""
        return self._part("variant", variant) if variant else self._part("product", product_id)

    def of_query(self, query: str) -> str:
        """The part of a query; queries that differ in case, width or spaces only share one."""
        return self._part("query", normalized(query))

    def of_pair(self, query: str, product_id: str, product_part: str) -> str | None:
        """The part of a query and a product that it led to.

        Args:
          query: the query.
          product_id: the product.
          product_part: what `of_product` gives.

        Returns:
          "train", "dev" or "test"; None where the query is held out for one part and the product for the other.
        """
        parts = {product_part, self.of_query(query)} - {TRAIN}
        if not parts:
            return self._part("pair", normalized(query), product_id)
        return parts.pop() if len(parts) == 1 else None

    def _part(self, kind: str, *key: str) -> str:
        at = _fraction(kind, *key)
        for name, share in self.shares.items():
            if at < share:
                return name
            at -= share
        return TRAIN


def parse_splits(pairs: tuple[str, ...]) -> Splits | None:
    """Parses `--splits` pairs such as "dev=0.05"; None when there is none.

    Raises:
      UsageError: a pair is not PART=SHARE, a part is unknown or given twice, or the shares leave nothing to train on.
    """
    shares: dict[str, float] = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        try:
            share = float(text)
        except ValueError:
            share = -1.0
        if name not in HELD_OUT or name in shares or not 0 < share < 1:
            raise UsageError(
                f"--splits {pair!r} holds out no part: write dev=SHARE or test=SHARE, each once, with a share between "
                "0 and 1, such as dev=0.05"
            )
        shares[name] = share
    if sum(shares.values()) >= 1:
        raise UsageError(f"--splits {' '.join(pairs)} leaves nothing to train on: give shares that sum to less than 1")
    return Splits({name: shares[name] for name in HELD_OUT if name in shares}) if shares else None


def require_products(part: str, count: int) -> None:
    """Refuses a part without products.

    Raises:
      MaxsearchError: it has none.
    """
    if not count:
        raise MaxsearchError(f"--splits leaves no product for {part}: give it a larger share, or leave it out")


def require_interactions(part: str, count: int) -> None:
    """Refuses a part without interactions.

    Raises:
      MaxsearchError: it has none.
    """
    if not count:
        raise MaxsearchError(
            f"--splits leaves no interaction with products of {part} for {part}: give a larger share, or leave it out"
        )


def condition(seen_query: bool, seen_product: bool) -> str:
    """What a held-out pair tests.

    Args:
      seen_query: whether the query, but for case, width and spaces, stands in a training interaction.
      seen_product: whether the product is one of training's.
    """
    if seen_product:
        return IN_DOMAIN if seen_query else NOVEL_QUERY
    return NOVEL_PRODUCT if seen_query else ZERO_SHOT


def _fraction(*key: str) -> float:
    """A number from 0 to below 1 that looks random and depends on the key alone."""
    digest = hashlib.blake2b("\0".join(key).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / (1 << 53)

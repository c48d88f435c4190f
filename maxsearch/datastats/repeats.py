"""Which products repeat one another inside a dataset, and what two datasets share.

P products, Q queries, n rows of (key, owner).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt64

from maxsearch.data.keys import NONE, joined
from maxsearch.datastats.scan import Scan

EXAMPLES = 3
SHOWN_OF_GROUP = 4


@dataclass(frozen=True)
class Rows:
    """Which record has which value.

    Attributes:
      keys: of the values; a record may come with several.
      owners: positions of the records.
    """

    keys: UInt64[np.ndarray, " n"]
    owners: Int64[np.ndarray, " n"]


@dataclass(frozen=True)
class Repeats:
    """Products of one dataset that have something in common.

    Attributes:
      what: what they have in common.
      groups: how many values two products or more have.
      products: how many products have such a value.
      share: of all products.
      largest: products of the largest group.
      examples: positions of the first products of the largest groups.
    """

    what: str
    groups: int
    products: int
    share: float
    largest: int
    examples: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Shared:
    """What two datasets have in common.

    Attributes:
      what: product ids, titles, images, variants or queries.
      values: distinct values that both have.
      first: records of the first dataset with such a value: products, or distinct queries.
      first_share: of all its products or queries.
      second: the same of the second dataset.
      second_share: the same of the second dataset.
      second_weight_share: of queries, the share of the second dataset's clicks that they hold; else None.
      examples: (position in the first, position in the second) of the first few values, in the second one's order:
        positions of products, or of interactions.
    """

    what: str
    values: int
    first: int
    first_share: float
    second: int
    second_share: float
    second_weight_share: float | None
    examples: tuple[tuple[int, int], ...]


def repeats(scan: Scan) -> tuple[Repeats, ...]:
    """Products with the same title, picture, both, or variant group."""
    products = len(scan.id)
    return tuple(
        _repeats(what, rows, products)
        for what, rows in (
            ("same title", _present(scan.title)),
            ("same image", _images(scan)),
            ("same title and front image", _listings(scan)),
            ("same variant", _present(scan.variant)),
        )
    )


def shared(first: Scan, second: Scan) -> tuple[Shared, ...]:
    """Products that stand in both datasets by one of their traits, and queries that stand in both."""
    found = [
        _shared(what, rows(first), rows(second), len(first.id), len(second.id))
        for what, rows in (
            ("product ids", lambda scan: _present(scan.id)),
            ("titles", lambda scan: _present(scan.title)),
            ("images", _images),
            ("variants", lambda scan: _present(scan.variant)),
        )
    ]
    ours, theirs = first.queries, second.queries
    rows = (Rows(ours.keys, ours.first), Rows(theirs.keys, theirs.first))
    queries = _shared("queries", *rows, len(ours.keys), len(theirs.keys), theirs.weight)
    return (*found, queries)


def _present(keys: UInt64[np.ndarray, " P"]) -> Rows:
    owners = np.flatnonzero(keys != NONE)
    return Rows(keys[owners], owners)


def _images(scan: Scan) -> Rows:
    """Each picture once per product that has it."""
    pictures = scan.pictures
    order = np.lexsort((pictures.owner, pictures.key))
    keys, owners = pictures.key[order], pictures.owner[order]
    fresh = np.ones(len(keys), bool)
    fresh[1:] = (keys[1:] != keys[:-1]) | (owners[1:] != owners[:-1])
    return Rows(keys[fresh], owners[fresh])


def _listings(scan: Scan) -> Rows:
    """Title and front picture as one key, of products that have both."""
    owners, at = np.unique(scan.pictures.owner, return_index=True)
    titled = scan.title[owners] != NONE
    owners, at = owners[titled], at[titled]
    return Rows(joined(scan.title[owners], scan.pictures.key[at]), owners)


def _repeats(what: str, rows: Rows, products: int) -> Repeats:
    owners = rows.owners
    values, which, counts = np.unique(rows.keys, return_inverse=True, return_counts=True)
    repeated = counts > 1
    members = len(np.unique(owners[repeated[which]]))
    first = np.full(len(values), products, np.int64)
    np.minimum.at(first, which, owners)
    groups = np.flatnonzero(repeated)
    # The largest first; of equal ones, the one that begins first.
    largest = groups[np.lexsort((first[groups], -counts[groups]))][:EXAMPLES]
    return Repeats(
        what=what,
        groups=len(groups),
        products=members,
        share=_share(members, products),
        largest=int(counts[groups].max(initial=0)),
        examples=tuple(
            tuple(int(owner) for owner in np.sort(owners[which == group])[:SHOWN_OF_GROUP]) for group in largest
        ),
    )


def _shared(
    what: str,
    first: Rows,
    second: Rows,
    first_total: int,
    second_total: int,
    weight: Float64[np.ndarray, " Q"] | None = None,
) -> Shared:
    values = np.intersect1d(first.keys, second.keys)
    ours, theirs = np.isin(first.keys, values), np.isin(second.keys, values)
    held = None if weight is None else _share(float(weight[theirs].sum()), float(weight.sum()))
    records = len(np.unique(first.owners[ours])), len(np.unique(second.owners[theirs]))
    return Shared(
        what=what,
        values=len(values),
        first=records[0],
        first_share=_share(records[0], first_total),
        second=records[1],
        second_share=_share(records[1], second_total),
        second_weight_share=held,
        examples=_examples(first, second, theirs),
    )


def _examples(first: Rows, second: Rows, theirs: Bool[np.ndarray, " m"]) -> tuple[tuple[int, int], ...]:
    keys, owners = second.keys[theirs], second.owners[theirs]
    values, at = np.unique(keys[np.argsort(owners, kind="stable")], return_index=True)
    chosen = values[np.argsort(at)][:EXAMPLES]
    return tuple((int(first.owners[first.keys == key].min()), int(owners[keys == key].min())) for key in chosen)


def _share(part: int | float, whole: int | float) -> float:
    return part / whole if whole else 0.0

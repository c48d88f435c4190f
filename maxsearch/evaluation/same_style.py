"""Product-to-product retrieval, as eSSPR evaluates same-style products (arXiv 2302.05093).

Each product that has same-style ones ranks all others of the catalogue, by one of its vectors against one of theirs: a
direction such as "t-m" has the text of the one and the fused vector of the others (m fused, t text, v pictures). R@K is
the share of queries with a same-style product in the first K ranks, and MRR the mean of one over the rank of the first,
which is not cut.

What is of the same style is told by pairs (left, right), where the left one is the query, or by columns of the
catalogue: products that share their values are of one style. Products of one style are no independent queries, so
intervals resample styles there, and lefts where pairs are given.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int, Int64

from maxsearch.data.catalogue import product_columns
from maxsearch.data.tables.files import Columns
from maxsearch.data.tables.parts import TableSource, table_at
from maxsearch.data.tables.read import column_names, read_fields, several, suggestion
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.evaluation.bootstrap import RESAMPLES, Interval
from maxsearch.evaluation.clusters import cluster_means, cluster_sums, percentile_interval
from maxsearch.evaluation.embedded import ProductEncoder
from maxsearch.evaluation.product_vectors import ProductVectors, Source, product_vectors
from maxsearch.evaluation.ranks import best_ranks
from maxsearch.progress import Progress

SCHEMA_VERSION = 1
KINDS = {"m": "p", "t": "t", "v": "v"}
DIRECTIONS = ("m-m", "t-t", "v-v", "t-m", "v-m", "t-v", "v-t")
METRICS = ("mrr", "r@1", "r@10")
FIELDS = ("left_id", "right_id")
PAIRS = "pairs file"
VARIANT = "variant"
MOST_PAIRS = 50_000_000  # of same-style products, 16 bytes each

Pairs = Int64[np.ndarray, "E 2"]


@dataclass(frozen=True)
class SameStyleOptions:
    """What ranks what.

    Attributes:
      directions: of m, t and v, such as "t-m".
      group: columns whose values make a style, "variant" for the variant group; empty where pairs are given.
      most_queries: how many products are queries at most, drawn evenly; 0 for all.
      seed: of the draw and the bootstrap.
    """

    directions: Sequence[str] = DIRECTIONS
    group: Sequence[str] = ()
    most_queries: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        for direction in self.directions:
            query, dash, item = direction.partition("-")
            if not (dash and query in KINDS and item in KINDS):
                raise UsageError(
                    f"--directions {direction!r} is none: write two of m (fused), t (text) and v (pictures), like t-m"
                )
        if not self.directions:
            raise UsageError("--directions names none: give one or more, such as m-m")
        if self.most_queries < 0:
            raise UsageError(f"--most-queries {self.most_queries} is no number: give 0 for all, or more")


@dataclass(frozen=True)
class SameStyleFigures:
    """The figures.

    Attributes:
      directions: per direction, the interval of each of METRICS; None where no query has that modality.
      queries: per direction, the number of queries.
      counts: products, styles and pairs, used and left out.
      settings: what else the figures depend on.
    """

    directions: dict[str, dict[str, Interval] | None]
    queries: dict[str, int]
    counts: dict[str, Any]
    settings: dict[str, Any]


def read_pairs(path: TableSource, columns: Columns) -> Iterator[tuple[str, str]]:
    """Yields (left_id, right_id) of a table that has these columns, or the ones that `columns` names.

    Raises:
      UsageError: no such file, or a column is missing.
      MaxsearchError: a row is malformed, or lacks an identifier.
    """
    for place, (left, right) in read_fields(path, FIELDS, columns, what=PAIRS):
        if not left or not right:
            raise MaxsearchError(f"{place} lacks an identifier: fill it in")
        yield left, right


def evaluate_same_style(
    source: Source,
    pairs: Iterable[tuple[str, str]] | None,
    encoder: ProductEncoder,
    options: SameStyleOptions,
    progress: Progress | None = None,
) -> SameStyleFigures:
    """Embeds a catalogue once and ranks it for each product that has same-style ones.

    Args:
      source: the catalogue.
      pairs: (query, same-style product) by identifier; None where `options.group` tells.
      encoder: the model.
      options: what ranks what.
      progress: where to report.

    Raises:
      UsageError: both or neither of pairs and group, or a column of the group is missing.
      MaxsearchError: a file cannot be read, no product has a same-style one, or groups are too large.
    """
    if (pairs is None) == (not options.group):
        raise UsageError("give what is of the same style with either --pairs or --group")
    _require_group(source, options.group)
    kinds = sorted({KINDS[kind] for direction in options.directions for kind in direction.split("-")})
    told = None if pairs is None else list(pairs)
    found = product_vectors(source, encoder, kinds, group=options.group, progress=progress)
    left_out = {"pairs_of_other_products": 0, "pairs_of_a_product_with_itself": 0}
    if told is None:
        relevant, style = _of_groups(found.groups, options.group)
    else:
        relevant, left_out = _of_pairs(told, found.ids)
        style = np.arange(len(found.ids))
    if not len(relevant):
        what = f"the columns {', '.join(options.group)}" if told is None else "the pairs"
        raise MaxsearchError(
            f"{what} make no two products of {source.products} same-style: "
            "name other columns, or the catalogue that the pairs are of"
        )
    having = len(np.unique(relevant[:, 0]))
    relevant = _drawn(relevant, options)
    directions, queries = _directions(found, relevant, style, options, progress)
    return SameStyleFigures(
        directions=directions,
        queries=queries,
        counts={
            "products": len(found.ids),
            "products_with_same_style": having,
            "queries": len(np.unique(relevant[:, 0])),
            "pairs": len(relevant),
            **left_out,
            "products_rejected": found.rejected,
        },
        settings={
            "model_fingerprint": encoder.fingerprint,
            "group": list(options.group),
            "most_queries": options.most_queries,
            "interval": {
                "method": f"percentile bootstrap over {'lefts' if told is not None else 'styles'}",
                "level": 0.95,
                "resamples": RESAMPLES,
            },
            "seed": options.seed,
        },
    )


def _directions(
    found: ProductVectors,
    relevant: Pairs,
    style: Int[np.ndarray, " N"],
    options: SameStyleOptions,
    progress: Progress | None,
) -> tuple[dict[str, dict[str, Interval] | None], dict[str, int]]:
    """The figures of each direction, and its number of queries: products that lack the modality ask nothing."""
    there = {"m": np.ones(len(found.ids), bool), "t": found.titled, "v": found.pictured}
    figures: dict[str, dict[str, Interval] | None] = {}
    queries = {}
    for direction in options.directions:
        asking, asked = direction.split("-")
        mine = relevant[there[asking][relevant[:, 0]]]
        lefts, query = np.unique(mine[:, 0], return_inverse=True)
        queries[direction], figures[direction] = len(lefts), None
        if len(lefts):
            ranks = best_ranks(
                found.vectors[KINDS[asking]][lefts],
                found.vectors[KINDS[asked]],
                np.stack([query, mine[:, 1]], axis=1),
                skipped=lefts,
                track=lambda blocks: blocks if progress is None else progress.track(blocks, f"ranking {direction}"),  # noqa: B023
            )
            figures[direction] = intervals(ranks, style[lefts], seed=options.seed)
    return figures, queries


def intervals(ranks: Int64[np.ndarray, " Q"], style: Int[np.ndarray, " Q"], *, seed: int = 0) -> dict[str, Interval]:
    """MRR, R@1 and R@10 over queries, with intervals over styles.

    Args:
      ranks: of each query's first same-style product, from 1.
      style: what each query is resampled with.
      seed: of the bootstrap.
    """
    cluster = np.unique(style, return_inverse=True)[1]
    columns = [1 / ranks, (ranks <= 1).astype(np.float64), (ranks <= 10).astype(np.float64)]
    parts = np.stack([cluster_sums(values, cluster) for values in columns], axis=1)
    draws = cluster_means(parts[..., 0], parts[..., 1], seed=seed)
    found = zip(METRICS, columns, draws.T, strict=True)
    return {name: percentile_interval(float(values.mean()), drawn) for name, values, drawn in found}


def _of_groups(groups: Sequence[tuple[str, ...]], columns: Sequence[str]) -> tuple[Pairs, Int64[np.ndarray, " N"]]:
    """All pairs of products that share their values, and a number for each product's values."""
    numbers: dict[tuple[str, ...], int] = {}
    style = np.array([numbers.setdefault(values, len(numbers)) for values in groups], np.int64)
    told = np.array([all(values) for values in groups], bool)
    members = [np.flatnonzero(style == number) for number in np.unique(style[told])]
    size = sum(len(own) * (len(own) - 1) for own in members)
    if size > MOST_PAIRS:
        raise MaxsearchError(
            f"--group {' '.join(columns)} makes {size:,} pairs, too many to be styles: name further columns"
        )
    pairs = [np.stack(np.meshgrid(own, own, indexing="ij"), axis=-1).reshape(-1, 2) for own in members if len(own) > 1]
    every = np.concatenate([np.zeros((0, 2), np.int64), *pairs])
    return every[every[:, 0] != every[:, 1]], style


def _of_pairs(pairs: Iterable[tuple[str, str]], ids: Sequence[str]) -> tuple[Pairs, dict[str, int]]:
    position = {product: row for row, product in enumerate(ids)}
    kept: dict[tuple[int, int], None] = {}
    other = itself = 0
    for left, right in pairs:
        if left not in position or right not in position:
            other += 1
        elif left == right:
            itself += 1
        else:
            kept[position[left], position[right]] = None
    found = np.array(list(kept), np.int64).reshape(-1, 2)
    return found, {"pairs_of_other_products": other, "pairs_of_a_product_with_itself": itself}


def _drawn(relevant: Pairs, options: SameStyleOptions) -> Int64[np.ndarray, "F 2"]:
    """The pairs of the queries that are drawn."""
    lefts = np.unique(relevant[:, 0])
    if not options.most_queries or len(lefts) <= options.most_queries:
        return relevant
    chosen = np.random.default_rng(options.seed).choice(lefts, options.most_queries, replace=False)
    return relevant[np.isin(relevant[:, 0], chosen)]


def _require_group(source: Source, group: Sequence[str]) -> None:
    """Refuses, before anything is embedded, columns that the file lacks or that are fields of the product."""
    table = table_at(source.products, "products file")
    columns = product_columns(table, source.columns)
    names = column_names(table, what="products file")
    taken = {column for field in columns for column in several(columns, field)}
    known = None if names is None else [*(name for name in names if name not in taken), *columns.keys() & {VARIANT}]
    for name in group:
        if known is not None and name not in known:
            raise UsageError(f"--group {name} is no column of {source.products} to group by: {suggestion(name, known)}")

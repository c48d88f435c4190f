"""nDCG@10 of every system on the parts of a test.

A part of the queries is their average. For a part of the products (ours), the relevant products outside it are taken
out of every ranking and of the judgments, so that they neither help nor harm, and what ranks below them moves up: what
is left asks how well the relevant products of the part are found among the irrelevant ones of the whole catalogue.
A query whose ranks end before ten are left is left out for all systems, and a TREC run that ends there is left out of
the part: a list that is cut short tells nothing of what stands below.

Letters: Q queries, K ranks, J relevant pairs, V parts, S systems.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64

from maxsearch.evaluation.bootstrap import bootstrap
from maxsearch.evaluation.embedded import OURS
from maxsearch.evaluation.metrics import BLOCK, IDEAL_DEPTH, Relevance
from maxsearch.evaluation.results import SliceRow
from maxsearch.evaluation.slices import QUERIES, Slicing

FEWEST = 30  # queries; with fewer, an interval says little
RESAMPLES = 2_000
DEPTH, DEEP_CELLS = 1000, 2_000_000


def depth(k: int, queries: int) -> int:
    """How many ranks of each query are looked at, where relevant products are taken out: some 10^6 in all."""
    return max(k, min(DEPTH, DEEP_CELLS // queries))


def slice_rows(
    slicings: Sequence[Slicing],
    rankings: Mapping[str, Int[np.ndarray, "Q K"]],
    ndcg: Mapping[str, Float64[np.ndarray, " Q"]],
    relevance: Relevance,
    *,
    runs: Sequence[str] = (),
    k: int = 100,
    seed: int = 0,
) -> list[SliceRow]:
    """The figures of every part that has a query.

    Args:
      slicings: how to cut.
      rankings: catalogue positions per system, to any depth; -1 where nothing stands.
      ndcg: each system's nDCG@10 per query.
      relevance: the judgments.
      runs: the systems that came as TREC runs, of which only the first ranks are known.
      k: ranks from which on a run counts as cut short.
      seed: of the bootstrap.
    """
    rows: list[SliceRow] = []
    for slicing in slicings:
        if slicing.of == QUERIES:
            rows += _of_queries(slicing, ndcg, relevance, seed)
        else:
            rows += _of_products(slicing, rankings, relevance, runs, k, seed)
    return rows


def _of_queries(
    slicing: Slicing, ndcg: Mapping[str, Float64[np.ndarray, " Q"]], relevance: Relevance, seed: int
) -> list[SliceRow]:
    parts = [slicing.part == number for number in range(len(slicing.values))]
    found = {
        (number, name): np.where(inside, values, np.nan)
        for number, inside in enumerate(parts)
        if inside.any()
        for name, values in ndcg.items()
    }
    judgments = [int(relevance.relevant[inside].sum()) for inside in parts]
    return _rows(slicing, found, judgments, [0] * len(parts), seed)


def _of_products(
    slicing: Slicing,
    rankings: Mapping[str, Int[np.ndarray, "Q K"]],
    relevance: Relevance,
    runs: Sequence[str],
    k: int,
    seed: int,
) -> list[SliceRow]:
    V = len(slicing.values)
    Q = len(relevance.relevant)
    queries = relevance.keys // relevance.catalogue_size
    relevant = relevance.grades >= relevance.relevant_grade
    ideals, asked = [], []
    for number in range(V):
        inside = slicing.part == number
        kept = Relevance.of_keys(
            relevance.keys[inside],
            relevance.grades[inside],
            Q,
            relevance.catalogue_size,
            relevant_grade=relevance.relevant_grade,
        )
        ideals.append(kept.ideal)
        asked.append(kept.relevant > 0)
    values = {
        name: _sliced(rows, slicing, relevance, ideals, k if name in runs else None) for name, rows in rankings.items()
    }
    found, judgments, left_out = {}, [], []
    for number in range(V):
        cut = np.zeros(Q, np.bool_)
        for name, (_, ends) in values.items():
            if name not in runs:
                cut |= ends[:, number]
        use = asked[number] & ~cut
        judgments.append(int((relevant & (slicing.part == number) & use[queries]).sum()))
        left_out.append(int((asked[number] & cut).sum()))
        for name, (gains, ends) in values.items():
            if use.any() and not (ends[:, number] & use).any():
                found[number, name] = np.where(use, gains[:, number], np.nan)
    return _rows(slicing, found, judgments, left_out, seed)


def _sliced(
    rows: Int[np.ndarray, "Q K"],
    slicing: Slicing,
    relevance: Relevance,
    ideals: Sequence[Int64[np.ndarray, "Q I"]],
    k: int | None,
) -> tuple[Float64[np.ndarray, "Q V"], Bool[np.ndarray, "Q V"]]:
    """nDCG@10 of each query on each part, and whether its ranks end before ten are left.

    Args:
      rows: catalogue positions.
      slicing: of products.
      relevance: the judgments.
      ideals: per part, the best grades in it.
      k: ranks from which on a list counts as cut short; None for the last one that was asked for.
    """
    Q, K = rows.shape
    gains, ends = np.zeros((Q, len(ideals))), np.zeros((Q, len(ideals)), np.bool_)
    discounts = 1 / np.log2(np.arange(2, IDEAL_DEPTH + 2))
    whole = relevance.catalogue_size <= K
    for start in range(0, Q, BLOCK):
        block = rows[start : start + BLOCK]
        here = slice(start, start + len(block))
        places = relevance.places_of(block, start)
        graded = places >= 0
        part = np.where(graded, slicing.part[places], -1)
        gain = np.where(graded, np.exp2(relevance.grades[places].astype(np.float64)) - 1, 0.0)
        listed = (block >= 0).sum(axis=1) if k is None else _last(block)
        short = (listed >= (K if k is None else min(k, K))) & (not whole)
        for number, ideal in enumerate(ideals):
            kept = ~graded | (part == number)
            rank = kept.cumsum(axis=1) - 1
            first = kept & (rank < IDEAL_DEPTH)
            dcg = np.where(first, gain * discounts[np.minimum(rank, IDEAL_DEPTH - 1)], 0.0).sum(axis=1)
            best = (np.exp2(ideal[here].astype(np.float64)) - 1) @ discounts
            gains[here, number] = np.divide(dcg, best, out=np.zeros(len(block)), where=best > 0)
            left = (kept & (np.arange(K) < listed[:, None])).sum(axis=1)
            ends[here, number] = short & (left < IDEAL_DEPTH)
    return gains, ends


def _last(rows: Int[np.ndarray, "Q K"]) -> Int64[np.ndarray, " Q"]:
    """The last rank at which something of the catalogue stands; products from elsewhere may stand between."""
    K = rows.shape[1]
    return np.where((rows >= 0).any(axis=1), K - (rows[:, ::-1] >= 0).argmax(axis=1), 0).astype(np.int64)


def _rows(
    slicing: Slicing,
    found: Mapping[tuple[int, str], Float64[np.ndarray, " Q"]],
    judgments: Sequence[int],
    left_out: Sequence[int],
    seed: int,
) -> list[SliceRow]:
    if not found:
        return []
    differences = {
        (part, name): values - found[part, OURS]
        for (part, name), values in found.items()
        if name != OURS and (part, OURS) in found
    }
    columns = [*found.values(), *differences.values()]
    intervals = bootstrap(np.stack(columns, axis=1), resamples=RESAMPLES, seed=seed)
    by = dict(zip(found, intervals, strict=False))
    apart = dict(zip(differences, intervals[len(found) :], strict=True))
    rows = []
    for number, value in enumerate(slicing.values):
        systems = {name: interval for (part, name), interval in by.items() if part == number}
        if systems:
            some = next(values for (part, _), values in found.items() if part == number)
            queries = int((~np.isnan(some)).sum())
            rows.append(
                SliceRow(
                    slice=slicing.name,
                    value=value,
                    of=slicing.of,
                    queries=queries,
                    judgments=judgments[number],
                    left_out=left_out[number],
                    few=queries < FEWEST,
                    systems=systems,
                    differences={name: interval for (part, name), interval in apart.items() if part == number},
                )
            )
    return rows

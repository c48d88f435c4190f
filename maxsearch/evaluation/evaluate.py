"""How well a model ranks a catalogue for judged queries, beside BM25, chance and any TREC run.

Judgments of products that are not in the catalogue do not count: no ranking of this catalogue could find them. A query
that has no relevant product left is not averaged over; it is counted.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from maxsearch.data.tables import Columns
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.evaluation import metrics
from maxsearch.evaluation.baselines import bm25, random_ranking
from maxsearch.evaluation.embedded import OURS, Catalogue, ProductEncoder, ProductsFile, rank_catalogue
from maxsearch.evaluation.judgments import read_qrels, read_queries
from maxsearch.evaluation.metrics import Relevance
from maxsearch.evaluation.rerank import pair_encoder, rerank
from maxsearch.evaluation.results import Evaluation, SystemRow
from maxsearch.evaluation.runs import read_run, require_trec_identifier, write_run
from maxsearch.evaluation.weights import weights_by
from maxsearch.progress import Progress

SMALLEST_K = 100  # recall@100 needs that many ranks


@dataclass(frozen=True)
class EvaluateOptions:
    """What to evaluate on, and what to compare with.

    Attributes:
      products: the catalogue, in any format that `prepare` reads.
      queries: the test queries; see `read_queries`.
      qrels: the judgments; see `read_qrels`.
      columns: column per field (`--map`).
      image_dir: folder of the pictures when the image column holds paths.
      k: ranks per query, at least 100. Every system is cut there, MRR too.
      relevant_grade: the lowest grade that counts as relevant for recall and MRR.
      save_run: where to write the ranking of every query that has text, as a TREC run.
      compare: TREC runs for further columns of the table.
      rerank: how many of the first ranks the matching head re-orders, in a row of its own; 0 does without.
      weights_by: an attribute of the catalogue, by whose values the modality weights are averaged.
      parts: whether the title vectors alone and the image vectors alone are ranked too.
      max_bad_fraction: share of the catalogue's rows that may be unusable.
      seed: of the bootstrap and the random ranking.
    """

    products: Path
    queries: Path
    qrels: Path
    columns: Columns = field(default_factory=dict)
    image_dir: Path | None = None
    k: int = 100
    relevant_grade: int = 1
    save_run: Path | None = None
    compare: Sequence[Path] = ()
    rerank: int = 0
    weights_by: str | None = None
    parts: bool = True
    max_bad_fraction: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        if self.k < SMALLEST_K:
            raise UsageError(f"-k {self.k} is too few ranks for recall@100: give {SMALLEST_K} or more")
        if self.rerank and not 2 <= self.rerank <= self.k:
            raise UsageError(f"--rerank {self.rerank} re-orders nothing: give from 2 to the {self.k} ranks of -k")
        if self.relevant_grade < 1:
            raise UsageError(f"--relevant-grade {self.relevant_grade} would count every product: give 1 or more")
        if not 0 <= self.max_bad_fraction <= 1:
            raise UsageError(f"--max-bad-fraction {self.max_bad_fraction} is no share: give a number from 0 to 1")
        if self.save_run is not None and self.save_run.is_dir():
            raise UsageError(f"--save-run {self.save_run} is a folder: give the name of a file")


def evaluate(options: EvaluateOptions, encoder: ProductEncoder, progress: Progress | None = None) -> Evaluation:
    """Ranks the catalogue for every judged query and compares.

    All files but the products are read and checked before anything is embedded.

    Raises:
      UsageError: a file or a column is missing, or the model cannot re-rank and should.
      MaxsearchError: a malformed file, no common identifiers, or too many unusable products.
    """
    scorer = pair_encoder(encoder) if options.rerank else None
    texts = read_queries(options.queries, options.columns)
    qrels = read_qrels(options.qrels, options.columns)
    runs = {path: read_run(path) for path in options.compare}
    least = options.relevant_grade
    judged = judged_queries(texts, qrels, options)
    for path, run in runs.items():
        if not run.keys() & set(judged):
            raise MaxsearchError(
                f"the run {path} ranks none of the judged queries: it has {_some(run)}, the judgments have "
                f"{_some(judged)}; give a run over the same query identifiers"
            )
    ranked = [query for query, text in texts.items() if text] if options.save_run else judged
    if options.save_run:
        for query in ranked:
            require_trec_identifier(query, what="query")

    file = ProductsFile(options.products, options.columns, options.image_dir, options.max_bad_fraction)
    ours, catalogue = rank_catalogue(
        file,
        encoder,
        [texts[query] for query in ranked],
        options.k,
        parts=options.parts,
        trec_identifiers=options.save_run is not None,
        weights_by=options.weights_by,
        progress=progress,
    )
    if options.save_run:
        try:
            write_run(options.save_run, ranked, catalogue.ids, ours[OURS].rows, ours[OURS].scores)
        except OSError as error:
            raise MaxsearchError(
                f"--save-run {options.save_run} cannot be written ({error.strerror}): give another place"
            ) from None

    position = {product: row for row, product in enumerate(catalogue.ids)}
    inside = {q: {position[p]: grade for p, grade in qrels[q].items() if p in position} for q in judged}
    if not any(inside.values()):
        raise MaxsearchError(
            f"no product of the judgments {options.qrels} is in {options.products}: the judgments name "
            f"{_some(product for query in judged for product in qrels[query])}, the catalogue has "
            f"{_some(catalogue.ids)}; check the files and --map product_id=COLUMN"
        )
    queries = [query for query in judged if any(grade >= least for grade in inside[query].values())]
    if not queries:
        raise MaxsearchError(
            f"no query has a relevant product (grade {least} or above) in {options.products}: "
            "give the catalogue that the judgments were made for"
        )

    place = {query: number for number, query in enumerate(ranked)}
    chosen = np.array([place[query] for query in queries], dtype=np.int64)
    rankings = {name: ranking.rows[chosen] for name, ranking in ours.items()}
    wanted = [texts[query] for query in queries]
    if scorer is not None:
        rows = rerank(file, scorer, wanted, rankings[OURS], options.rerank, progress)
        rankings = {OURS: rankings[OURS], f"{OURS} (re-ranked {options.rerank})": rows, **rankings}
    rankings["BM25"] = bm25(wanted, catalogue.titles, options.k).rows
    rankings["random"] = random_ranking(len(queries), len(catalogue.ids), options.k, seed=options.seed).rows
    missing = {}
    for path, run in runs.items():
        name = path.name if path.name not in rankings else f"run {path}"
        rankings[name] = _run_rows(run, queries, position, options.k)
        missing[name] = sum(query not in run for query in queries)

    relevance = Relevance.build([inside[q] for q in queries], len(catalogue.ids), relevant_grade=least)
    return Evaluation(
        rows=_rows(rankings, relevance, missing, options.seed),
        queries=queries,
        counts=_counts(texts, qrels, queries, catalogue),
        settings={
            "model_fingerprint": encoder.fingerprint,
            "k": options.k,
            "gain": "2^grade - 1",
            "relevant_grade": least,
            "rerank": options.rerank,
            "interval": {"method": "percentile bootstrap over queries", "level": 0.95, "resamples": metrics.RESAMPLES},
            "seed": options.seed,
        },
        weights=weights_by(np.concatenate(catalogue.weights), catalogue.values) if options.weights_by else None,
    )


def judged_queries(
    texts: Mapping[str, str], qrels: Mapping[str, Mapping[str, int]], options: EvaluateOptions
) -> list[str]:
    """Queries that have text and at least one relevant product, in or out of the catalogue.

    Raises:
      MaxsearchError: there is none.
    """
    if not texts.keys() & qrels.keys():
        raise MaxsearchError(
            f"no query of {options.queries} is judged in {options.qrels}: the queries are {_some(texts)}, the "
            f"judgments are for {_some(qrels)}; check the files and --map query_id=COLUMN"
        )
    judged = [
        query
        for query, text in texts.items()
        if text and any(grade >= options.relevant_grade for grade in qrels.get(query, {}).values())
    ]
    if not judged:
        raise MaxsearchError(
            f"no query of {options.queries} has both text and a product of grade {options.relevant_grade} or above in "
            f"{options.qrels}: there is nothing to measure; check the grades and --relevant-grade"
        )
    return judged


def _counts(
    texts: Mapping[str, str],
    qrels: Mapping[str, Mapping[str, int]],
    evaluated: Sequence[str],
    catalogue: Catalogue,
) -> dict[str, Any]:
    inside = set(catalogue.ids)
    with_text = sum(query in qrels for query, text in texts.items() if text)
    return {
        "products": len(catalogue.ids),
        "products_rejected": dict(sorted(catalogue.rejected.items())),
        "queries": len(texts),
        "queries_evaluated": len(evaluated),
        "queries_without_text": sum(not text for text in texts.values()),
        "queries_without_judgments": sum(query not in qrels for query, text in texts.items() if text),
        "queries_without_relevant_product": with_text - len(evaluated),
        "judged_queries_not_in_queries_file": len(qrels.keys() - texts.keys()),
        "judgments": sum(map(len, qrels.values())),
        "judgments_of_products_not_in_catalogue": sum(
            product not in inside for grades in qrels.values() for product in grades
        ),
    }


def _run_rows(
    run: Mapping[str, Sequence[str]], queries: Sequence[str], position: Mapping[str, int], k: int
) -> Int32[np.ndarray, "Q K"]:
    rows = np.full((len(queries), k), -1, dtype=np.int32)
    for query, ranked in zip(rows, queries, strict=True):
        products = run.get(ranked, ())[:k]
        # A product from elsewhere keeps its rank and counts as not relevant.
        query[: len(products)] = [position.get(product, -1) for product in products]
    return rows


def _rows(
    rankings: Mapping[str, Int32[np.ndarray, "Q K"]], relevance: Relevance, missing: Mapping[str, int], seed: int
) -> list[SystemRow]:
    scored = {name: metrics.score(rows, relevance) for name, rows in rankings.items()}
    columns = [values[metric] for values in scored.values() for metric in metrics.METRICS]
    intervals = iter(metrics.bootstrap(np.stack(columns, axis=1), seed=seed))
    return [
        SystemRow(
            name=name,
            metrics={metric: next(intervals) for metric in metrics.METRICS},
            per_query=values,
            missing_queries=missing.get(name, 0),
        )
        for name, values in scored.items()
    ]


def _some(identifiers: Iterable[str]) -> str:
    """The first few identifiers, for a message."""
    first = [identifier for identifier, _ in zip(identifiers, range(4), strict=False)]
    return ", ".join(first[:3]) + (", ..." if len(first) > 3 else "")

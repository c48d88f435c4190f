"""Which queries are evaluated, and the judgments that count: those of products that the catalogue holds.

Judgments of products that are not in the catalogue do not count: no ranking of this catalogue could find them. A query
that has no relevant product left is not averaged over; it is counted.

Letters: Q evaluated queries, J judgments.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from maxsearch.errors import MaxsearchError
from maxsearch.evaluation.auc import Pairs
from maxsearch.evaluation.embedded import Catalogue
from maxsearch.evaluation.judgments import read_qrels, read_queries
from maxsearch.evaluation.metrics import Relevance
from maxsearch.evaluation.options import EvaluateOptions
from maxsearch.evaluation.runs import read_run, require_trec_identifier


@dataclass(frozen=True)
class Asked:
    """What the files say, before the catalogue is read.

    Attributes:
      texts: of every query.
      qrels: grade per product identifier per query identifier.
      judged: queries with text and a relevant product, in or out of the catalogue.
      ranked: the queries that are ranked: the judged ones, or all with text where a run is saved.
      products: position of each product that is judged for one of these, by its identifier.
      runs: the compared TREC runs, by file.
    """

    texts: dict[str, str]
    qrels: dict[str, dict[str, int]]
    judged: list[str]
    ranked: list[str]
    products: dict[str, int]
    runs: dict[Path, dict[str, list[str]]]


@dataclass(frozen=True)
class Judged:
    """The evaluated queries and their judgments inside the catalogue, sorted by query.

    Attributes:
      queries: identifiers of the evaluated queries.
      place: position of each among the ranked queries.
      query: position of each judgment's query among the evaluated ones.
      row: catalogue position of its product.
      product: position of its product among the judged ones.
      grade: its grade.
    """

    queries: list[str]
    place: Int64[np.ndarray, " Q"]
    query: Int64[np.ndarray, " J"]
    row: Int64[np.ndarray, " J"]
    product: Int64[np.ndarray, " J"]
    grade: Int64[np.ndarray, " J"]

    def relevance(self, catalogue_size: int, relevant_grade: int) -> Relevance:
        """The judgments for look-up by catalogue position."""
        graded = self.grade > 0
        keys = self.query[graded] * catalogue_size + self.row[graded]
        order = np.argsort(keys)
        return Relevance.of_keys(
            keys[order], self.grade[graded][order], len(self.queries), catalogue_size, relevant_grade=relevant_grade
        )

    def pairs(self, relevant_grade: int) -> Pairs:
        """Every judged pair."""
        return Pairs(self.query, self.product, self.grade >= relevant_grade)


def read_asked(options: EvaluateOptions) -> Asked:
    """Reads and checks all files but the products.

    Raises:
      UsageError: a file or a column is missing.
      MaxsearchError: a malformed file, or no common identifiers.
    """
    texts = read_queries(options.queries, options.columns)
    qrels = read_qrels(options.qrels, options.columns)
    judged = judged_queries(texts, qrels, options)
    runs = {path: read_run(path) for path in options.compare}
    for path, run in runs.items():
        if run.keys().isdisjoint(judged):
            raise MaxsearchError(
                f"the run {path} ranks none of the judged queries: it has {some(run)}, the judgments have "
                f"{some(judged)}; give a run over the same query identifiers"
            )
    ranked = [query for query, text in texts.items() if text] if options.saves else judged
    if options.saves:
        for query in ranked:
            require_trec_identifier(query, what="query")
    products: dict[str, int] = {}
    for query in judged:
        for product in qrels[query]:
            products.setdefault(product, len(products))
    return Asked(texts, qrels, judged, ranked, products, runs)


def judged_queries(
    texts: Mapping[str, str], qrels: Mapping[str, Mapping[str, int]], options: EvaluateOptions
) -> list[str]:
    """Queries that have text and at least one relevant product, in or out of the catalogue.

    Raises:
      MaxsearchError: there is none.
    """
    if not texts.keys() & qrels.keys():
        raise MaxsearchError(
            f"no query of {options.queries} is judged in {options.qrels}: the queries are {some(texts)}, the "
            f"judgments are for {some(qrels)}; check the files and --map query_id=COLUMN"
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


def inside(asked: Asked, catalogue: Catalogue, options: EvaluateOptions) -> Judged:
    """Keeps the judgments of products that the catalogue holds, and the queries that still have a relevant one.

    Raises:
      MaxsearchError: nothing is left.
    """
    position = {product: row for row, product in enumerate(catalogue.ids) if product in asked.products}
    if not position:
        raise MaxsearchError(
            f"no product of the judgments {options.qrels} is in {options.products}: the judgments name "
            f"{some(asked.products)}, the catalogue has {some(catalogue.ids)}; check the files and "
            "--map product_id=COLUMN"
        )
    place = {query: number for number, query in enumerate(asked.ranked)}
    queries: list[str] = []
    found: list[tuple[int, int, int, int]] = []
    for query in asked.judged:
        grades = {product: grade for product, grade in asked.qrels[query].items() if product in position}
        if any(grade >= options.relevant_grade for grade in grades.values()):
            found += [(len(queries), position[p], asked.products[p], grade) for p, grade in grades.items()]
            queries.append(query)
    if not queries:
        raise MaxsearchError(
            f"no query has a relevant product (grade {options.relevant_grade} or above) in {options.products}: "
            "give the catalogue that the judgments were made for"
        )
    query, row, product, grade = np.array(found, np.int64).T
    return Judged(queries, np.array([place[query] for query in queries], np.int64), query, row, product, grade)


def counts(asked: Asked, judged: Judged, catalogue: Catalogue) -> dict[str, Any]:
    """What was used, and what was left out, by reason."""
    texts, qrels = asked.texts, asked.qrels
    ids = set(catalogue.ids)
    with_text = sum(query in qrels for query, text in texts.items() if text)
    return {
        "products": len(catalogue.ids),
        "products_rejected": dict(sorted(catalogue.rejected.items())),
        "queries": len(texts),
        "queries_evaluated": len(judged.queries),
        "queries_without_text": sum(not text for text in texts.values()),
        "queries_without_judgments": sum(query not in qrels for query, text in texts.items() if text),
        "queries_without_relevant_product": with_text - len(judged.queries),
        "judged_queries_not_in_queries_file": len(qrels.keys() - texts.keys()),
        "judgments": sum(map(len, qrels.values())),
        "judgments_of_products_not_in_catalogue": sum(
            product not in ids for grades in qrels.values() for product in grades
        ),
    }


def run_rows(
    run: Mapping[str, Sequence[str]], queries: Sequence[str], catalogue: Catalogue, k: int
) -> Int64[np.ndarray, "Q K"]:
    """The first k ranks of a TREC run as catalogue positions; -1 for a product from elsewhere, which keeps its rank."""
    wanted = {product for query in queries for product in run.get(query, ())[:k]}
    position = {product: row for row, product in enumerate(catalogue.ids) if product in wanted}
    rows = np.full((len(queries), k), -1, dtype=np.int64)
    for line, query in zip(rows, queries, strict=True):
        products = run.get(query, ())[:k]
        line[: len(products)] = [position.get(product, -1) for product in products]
    return rows


def some(identifiers: Iterable[str]) -> str:
    """The first few identifiers, for a message."""
    first = [identifier for identifier, _ in zip(identifiers, range(4), strict=False)]
    return ", ".join(first[:3]) + (", ..." if len(first) > 3 else "")

"""An evaluation tried as someone would who does not believe it."""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from maxsearch.data.records import Product
from maxsearch.errors import MaxsearchError
from maxsearch.evaluation.evaluate import evaluate
from maxsearch.evaluation.options import EvaluateOptions
from tests.judged_words import Batch, WordEncoder, append, means, options, table

__all__ = ["options"]  # the fixture


class Collapsed(WordEncoder):
    """Every product has one vector."""

    def encode_products(self, products: Iterable[Product]) -> Iterator[Batch]:
        for batch in super().encode_products(products):
            batch.p = np.ones_like(batch.p)
            yield batch


def rewritten(path: Path, rows: list[dict[str, str]]) -> Path:
    return table(path.with_name(f"other-{path.name}"), rows)


def read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open()))


def best_first(options: EvaluateOptions) -> EvaluateOptions:
    """Only one query, and a catalogue whose first products are those that it wants."""
    wanted = [row["product_id"] for row in read(options.qrels) if row["query_id"] == "q0" and row["grade"] == "2"]
    products = sorted(read(options.products), key=lambda row: row["product_id"] not in wanted)
    queries = [row for row in read(options.queries) if row["query_id"] == "q0"]
    return replace(options, products=rewritten(options.products, products), queries=rewritten(options.queries, queries))


def test_shuffled_judgments_give_chance(options: EvaluateOptions) -> None:
    """Every judgment goes to a product drawn anew, so that no ranking can know anything."""
    rng = np.random.default_rng(0)
    products = [row["product_id"] for row in read(options.products)]
    judgments = []
    for query in range(20):
        own = [row for row in read(options.qrels) if row["query_id"] == f"q{query}"]
        for row, product in zip(own, rng.choice(products, len(own), replace=False).tolist(), strict=True):
            judgments.append(row | {"product_id": product})
    evaluation = evaluate(replace(options, qrels=rewritten(options.qrels, judgments)), WordEncoder())
    for metric in ("ndcg@10", "recall@100", "precision@10", "map", "auc"):
        ours, chance = (evaluation.row(name).metrics[metric] for name in ("ours", "random"))
        assert ours is not None and chance is not None
        assert ours.low <= chance.high and chance.low <= ours.high, metric
    (compared,) = [one for one in evaluation.comparisons if (one.system, one.metric) == ("random", "ndcg@10")]
    assert compared.p_corrected > 0.05


def test_a_collapsed_model_gains_nothing_by_ties(options: EvaluateOptions) -> None:
    evaluation = evaluate(options, Collapsed())
    ours, chance = (evaluation.row(name).metrics["ndcg@10"] for name in ("ours", "random"))
    assert ours is not None and chance is not None
    assert ours.low <= chance.high
    assert means(evaluation, "ours")["auc"] == 0.5
    assert evaluation.warnings[0].code == "tied_scores"
    assert "for 20 of 20 queries" in evaluation.warnings[0].message
    assert not evaluate(options, WordEncoder()).warnings


def test_the_order_of_the_catalogue_helps_no_one(options: EvaluateOptions) -> None:
    aided = best_first(options)
    assert means(evaluate(aided, Collapsed()), "ours")["ndcg@10"] < 0.5
    assert means(evaluate(aided, WordEncoder()), "ours")["ndcg@10"] == 1


def test_a_query_that_finds_nothing_scores_zero(options: EvaluateOptions, tmp_path: Path) -> None:
    append(options.queries, "strange,zzz qqq")
    append(options.qrels, "strange,p000,2")
    (tmp_path / "one.run").write_text("q0 Q0 stranger 1 1 t\n")
    evaluation = evaluate(replace(options, compare=[tmp_path / "one.run"]), WordEncoder())
    assert evaluation.row("BM25").missing_queries == 1
    assert {metric: values[20] for metric, values in evaluation.row("BM25").per_query.items()} == dict.fromkeys(
        evaluation.row("BM25").per_query, 0
    )
    assert evaluation.row("one.run").missing_queries == 20
    assert means(evaluation, "one.run") | {"auc": 0} == dict.fromkeys(means(evaluation, "one.run"), 0)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("queries", "", "queries.csv"),
        ("queries", "query_id,query\n", "the queries file .*queries.csv holds no query: give at least one"),
        ("queries", "query_id,query\nq0,red hat\nq0,blue hat\n", "row 2: query q0 has two texts, 'red hat' and 'blue"),
        ("qrels", "query_id,product_id,grade\n", "the qrels file .*qrels.csv holds no judgment: give at least one"),
        ("qrels", "query_id,product_id,grade\nq0,p000,1\nq0,p000,2\n", "query q0 and product p000 have two grades"),
        ("products", "product_id,name\na,x\na,y\n", r"1 of them for duplicate_id \(row 2 repeats the product_id 'a'"),
    ],
)
def test_empty_files_and_double_identifiers_are_one_sentence(
    options: EvaluateOptions, name: str, text: str, message: str
) -> None:
    getattr(options, name).write_text(text)
    encoder = WordEncoder()
    with pytest.raises(MaxsearchError, match=message) as caught:
        evaluate(options, encoder)
    assert "\n" not in str(caught.value)
    assert encoder.encoded <= 1


def test_figures_do_not_depend_on_the_order_of_the_files(options: EvaluateOptions) -> None:
    shuffled = replace(
        options,
        products=rewritten(options.products, read(options.products)[::-1]),
        queries=rewritten(options.queries, read(options.queries)[::-1]),
        qrels=rewritten(options.qrels, read(options.qrels)[::-1]),
    )
    for system in ("ours", "ours, text only", "ours, image only", "BM25"):
        one, other = (means(evaluate(given, WordEncoder()), system) for given in (options, shuffled))
        assert {n: v for n, v in one.items() if n != "auc"} == pytest.approx(
            {n: v for n, v in other.items() if n != "auc"}, abs=1e-12
        )

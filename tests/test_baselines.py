from pathlib import Path

import numpy as np
import pytest

from maxsearch.data.records import Product
from maxsearch.errors import UsageError
from maxsearch.evaluation.baselines.chance import Chance, random_ranking
from maxsearch.evaluation.baselines.lexical import bm25
from maxsearch.evaluation.baselines.spec import parse_baselines
from maxsearch.evaluation.judgments import read_qrels, read_queries
from maxsearch.evaluation.metrics import Relevance, score
from maxsearch.evaluation.rankers import Ranker, Task

FASHION = Path(__file__).parents[2] / "shared" / "data" / "fashion"
TITLES = ["Red running shoes", "Blue shoe for men", "Red hat", "", "Blue shoe for men", "the"]


def ranked(query: str, k: int = 10) -> list[int]:
    return [row for row in bm25([query], TITLES, k).rows[0].tolist() if row >= 0]


def test_stems_and_case() -> None:
    assert ranked("REDS")[0] == 2
    assert set(ranked("shoe")) == {0, 1, 4}


def test_rare_words_count_more_than_frequent_ones() -> None:
    assert ranked("hat shoe")[0] == 2


def test_equal_titles_keep_the_catalogues_order() -> None:
    assert ranked("blue") == [1, 4]
    assert ranked("blue", k=1) == [1]


@pytest.mark.parametrize("query", ["", "the for", "zebra", "!?"])
def test_queries_without_words_or_hits_rank_nothing(query: str) -> None:
    ranking = bm25([query, "hat"], TITLES, 3)
    assert ranking.rows.tolist() == [[-1, -1, -1], [2, -1, -1]]
    assert np.isneginf(ranking.scores[0]).all()


def test_a_catalogue_without_words_ranks_nothing() -> None:
    assert bm25(["hat"], ["", "the"], 5).rows.tolist() == [[-1, -1]]


def test_scores_are_those_of_the_formula() -> None:
    # Lucene's BM25: idf ln(1 + (N - n + 0.5)/(n + 0.5)) times tf/(tf + k1 (1 - b + b length/mean length)).
    titles = ["cat cat dog", "dog bird", "fish"]
    idf, lengths = np.log(1 + 2.5 / 1.5), np.array([3, 2, 1])
    wanted = idf * 2 / (2 + 1.5 * (0.25 + 0.75 * 3 / lengths.mean()))
    assert bm25(["cat"], titles, 1).scores[0, 0] == pytest.approx(wanted, rel=1e-5)


def test_ranks_past_k_are_the_best_among_many_ties() -> None:
    titles = ["dog"] * 50 + ["dog cat"] * 50
    assert bm25(["dog cat"], titles, 60).rows[0].tolist() == [*range(50, 100), *range(10)]


def test_random_ranking() -> None:
    ranking = random_ranking(2000, 20, 10)
    assert all(len(set(row)) == 10 for row in ranking.rows.tolist())
    counts = np.bincount(ranking.rows[:, 0], minlength=20)
    assert counts.min() > 60 and counts.max() < 145  # 100 each, four standard deviations
    np.testing.assert_array_equal(ranking.rows, random_ranking(2000, 20, 10).rows)
    assert (ranking.rows != random_ranking(2000, 20, 10, seed=1).rows).any()
    assert (np.diff(ranking.scores) < 0).all()
    assert random_ranking(3, 4, 10).rows.shape == (3, 4)


@pytest.mark.skipif(not FASHION.is_dir(), reason="the fashion catalogue is not beside this repository")
@pytest.mark.parametrize(("column", "figure"), [("title", 0.672), ("title_sparse", 0.112)])
def test_bm25_on_real_products_is_near_the_figure_measured_elsewhere(column: str, figure: float) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    table = pq.read_table(FASHION / "products.dev.parquet", columns=["product_id", column]).to_pydict()
    position = {str(product): row for row, product in enumerate(table["product_id"])}
    queries, qrels = read_queries(FASHION / "queries.dev.csv", {}), read_qrels(FASHION / "qrels.dev.tsv", {})
    judged = [query for query in queries if query in qrels]
    relevance = Relevance.build([{position[p]: g for p, g in qrels[query].items()} for query in judged], len(position))
    ranking = bm25([queries[query] for query in judged], table[column], 100)
    assert score(ranking.rows, relevance)["ndcg@10"].mean() == pytest.approx(figure, abs=0.03)


def test_random_pairs_have_scores_where_the_catalogue_has_the_product() -> None:
    ranker = Chance(seed=3)
    ranker.start(Task(["a", "b"], 2, {"p": 0, "gone": 1}))
    ranker.add([Product("q", ""), Product("p", "")])
    first, second, absent = ranker.scores(np.array([[0, 0], [1, 0], [0, 1]]))
    assert first != second and np.isnan(absent)
    np.testing.assert_array_equal(ranker.ranking().rows, random_ranking(2, 2, 2, seed=3).rows)


def test_specs(tmp_path: Path) -> None:
    specs = ["bm25", "bm25f", "bm25f:brand,colour", "tfidf", "random", f"bow:{tmp_path}", "st:a/model", "st:b/model"]
    names = [ranker.name for ranker in parse_baselines([*specs, "open_clip:ViT-B-32:weights.pt"])]
    assert names == [
        *("BM25", "BM25, fields", "bm25f:brand,colour", "TF-IDF", "random", "bag of words"),
        *("st model", "st:b/model", "open_clip ViT-B-32"),
    ]
    assert all(isinstance(ranker, Ranker) for ranker in parse_baselines(specs))


@pytest.mark.parametrize("spec", ["bm26", "", "st:", "bow:", "bm25:x", "bm25f:", "bm25f:a,", "open_clip:ViT-B-32"])
def test_an_unknown_spec_is_told_the_choices(spec: str) -> None:
    with pytest.raises(UsageError, match=r"is none that there is: choose from bm25, bm25f, .*open_clip:NAME:PATH"):
        parse_baselines(["bm25", spec])


def test_specs_that_cannot_be_meant() -> None:
    with pytest.raises(UsageError, match="--baseline bow:nowhere: nowhere is not a folder: name one that"):
        parse_baselines(["bow:nowhere"])
    with pytest.raises(UsageError, match="--baseline tfidf is given twice: leave one out"):
        parse_baselines(["tfidf", "bm25", "tfidf"])

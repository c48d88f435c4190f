"""BM25, BM25 with fields and TF-IDF beside plain loops over the formulas, and beside bm25s."""

import math
from collections import Counter
from collections.abc import Sequence

import bm25s
import numpy as np
import pytest
import Stemmer
from hypothesis import given, settings
from hypothesis import strategies as st

from maxsearch.data.records import Product
from maxsearch.evaluation.baselines import sparse
from maxsearch.evaluation.baselines.lexical import bm25, bm25_ranker, bm25f_ranker, tfidf_ranker
from maxsearch.evaluation.rankers import Ranker, Task

WORDS = ("red", "shoe", "shoes", "Hat", "running", "the", "x")
TEXTS = st.lists(st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join), min_size=1, max_size=12)
PRODUCTS = [
    Product("a", "red shoe", texts=("acme red", "soft sole"), attributes={"colour": "red", "size": "ten"}),
    Product("b", "shoe shoe", texts=("acme",), attributes={"colour": "blue"}),
    Product("c", "hat", attributes={"colour": "red", "note": "shoe"}),
    Product("d", "", texts=("", "a shoe")),
]
QUERIES = ["red shoe", "shoe shoe acme", "zebra", "hat"]


def run(ranker: Ranker, queries: Sequence[str] = QUERIES, products: Sequence[Product] = PRODUCTS, step: int = 3):
    """Scores of all pairs, and the ranking, of products that come in several parts."""
    judged = {product.product_id: place for place, product in enumerate([*products[::-1], Product("gone", "")])}
    ranker.start(Task(queries, 10, judged))
    for start in range(0, len(products), step):
        ranker.add(products[start : start + step])
    pairs = np.array([(q, judged[p.product_id]) for q in range(len(queries)) for p in products])
    assert np.isnan(ranker.scores(np.array([[0, judged["gone"]]]))).all()
    return ranker.scores(pairs).reshape(len(queries), len(products)), ranker.ranking()


def words(text: str) -> list[str]:
    """What bm25s makes of a text by its other way, whole lists at a time."""
    found: list[list[str]] = bm25s.tokenize(
        [text], stopwords="en", stemmer=Stemmer.Stemmer("english"), return_ids=False, show_progress=False
    )
    return found[0]


@settings(max_examples=40, deadline=None)
@given(TEXTS, TEXTS)
def test_bm25_is_that_of_bm25s(queries: list[str], titles: list[str]) -> None:
    documents = [words(title) for title in titles]
    wanted = np.zeros((len(queries), len(titles)), np.float32)
    if any(documents):
        model = bm25s.BM25(k1=1.5, b=0.75)
        model.index(documents, show_progress=False)
        for row, query in zip(wanted, queries, strict=True):
            row[:] = model.get_scores_from_ids(model.get_tokens_ids(words(query)))
    products = [Product(str(number), title) for number, title in enumerate(titles)]
    scores, ranking = run(bm25_ranker(), queries, products)
    np.testing.assert_allclose(scores, wanted, rtol=1e-6)
    for row, best, values in zip(wanted, ranking.rows, ranking.scores, strict=True):
        ranked = best[best >= 0]
        assert set(ranked) <= set(np.flatnonzero(row)) and len(ranked) == min(10, (row > 0).sum())
        np.testing.assert_allclose(values[: len(ranked)], np.sort(row)[::-1][: len(ranked)], rtol=1e-6)


def test_bm25_with_fields_is_its_formula() -> None:
    weights = {"title": 2.0, "texts": 1.0, "attributes": 1.0}
    fields = {
        "title": [words(p.title) for p in PRODUCTS],
        "texts": [words(" ".join(p.texts)) for p in PRODUCTS],
        "attributes": [words(" ".join(p.attributes.values())) for p in PRODUCTS],
    }
    mean = {name: np.mean([len(text) for text in texts if text]) for name, texts in fields.items()}

    def score(query: str, row: int) -> float:
        total = 0.0
        for word in words(query):
            n = sum(any(word in texts[other] for texts in fields.values()) for other in range(len(PRODUCTS)))
            tf = sum(
                weights[name] * Counter(texts[row])[word] / (0.25 + 0.75 * len(texts[row]) / mean[name])
                for name, texts in fields.items()
            )
            total += math.log(1 + (len(PRODUCTS) - n + 0.5) / (n + 0.5)) * tf / (1.5 + tf)
        return total

    scores, ranking = run(bm25f_ranker())
    wanted = [[score(query, row) for row in range(len(PRODUCTS))] for query in QUERIES]
    np.testing.assert_allclose(scores, wanted, rtol=1e-5)
    assert ranking.rows[3].tolist() == [2, -1, -1, -1]


def test_bm25_reads_the_attributes_that_are_named() -> None:
    colour, _ = run(bm25f_ranker(["colour"]))
    every, _ = run(bm25f_ranker())
    none, _ = run(bm25f_ranker(["absent"]))
    assert every[0, 2] > colour[0, 2] > 0  # "shoe" is in the note, "red" in the colour
    assert none[0, 2] == 0 and none[0, 0] > 0


def test_tf_idf_is_its_formula() -> None:
    texts = [words(" ".join([p.title, *p.texts])) for p in PRODUCTS]
    known = sorted({word for text in texts for word in text})
    idf = [1 + math.log((1 + len(texts)) / (1 + sum(word in text for text in texts))) for word in known]

    def vector(text: list[str]) -> np.ndarray:
        values = np.array([Counter(text)[word] for word in known]) * idf
        unknown = Counter(word for word in text if word not in known)
        more = [count * (1 + math.log(1 + len(texts))) for count in unknown.values()]
        length = np.sqrt((values**2).sum() + np.square(more).sum())
        return values / length if length else values

    scores, ranking = run(tfidf_ranker())
    wanted = [[vector(words(query)) @ vector(text) for text in texts] for query in QUERIES]
    np.testing.assert_allclose(scores, wanted, rtol=1e-5, atol=1e-7)
    assert ranking.rows[0, 0] == np.argmax(wanted[0]) and ranking.rows[2].tolist() == [-1] * 4


def test_blocks_of_queries_rank_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    titles = [" ".join(rng.choice(["aa", "bb", "cc", "dd"], rng.integers(0, 5))) for _ in range(200)]
    queries = [" ".join(rng.choice(["aa", "bb", "cc", "zz"], rng.integers(0, 4))) for _ in range(30)]
    whole = bm25(queries, titles, 7)
    monkeypatch.setattr(sparse, "BLOCK", 150)
    np.testing.assert_array_equal(bm25(queries, titles, 7).rows, whole.rows)


def test_nothing_to_rank() -> None:
    for ranker in (bm25_ranker(), bm25f_ranker(), tfidf_ranker()):
        ranker.start(Task(["red"], 5, {}))
        ranker.add([Product("a", "the"), Product("b", "")])
        assert ranker.ranking().rows.tolist() == [[-1, -1]]

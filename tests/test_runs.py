import tempfile
from pathlib import Path

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import RR

from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.evaluation.retrieval import Ranking
from maxsearch.evaluation.runs import read_run, trec_order, write_run

SCORES = st.sampled_from([0.0, 1.0, 0.25, -0.5, 2e-38, 3e7, 0.1])


def trec_eval_order(path: Path, query: str) -> list[str]:
    """The order trec_eval gives, asked for through the reciprocal rank of each product as the only relevant one."""
    run = [scored for scored in ir_measures.read_trec_run(str(path)) if scored.query_id == query]
    rank = {}
    for scored in run:
        qrels = [ir_measures.Qrel(query, scored.doc_id, 1)]
        rank[scored.doc_id] = round(1 / ir_measures.calc_aggregate([RR], qrels, run)[RR])
    return sorted(rank, key=rank.__getitem__)


@settings(max_examples=25, deadline=None)
@given(scores=st.lists(SCORES, min_size=1, max_size=8), seed=st.integers(0, 1000))
def test_every_reader_puts_a_written_run_in_our_order(scores: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    products = [f"p{number}" for number in rng.permutation(20)]
    rows = rng.permutation(20)[: len(scores)].astype(np.int32)[None]
    ranking = trec_order(Ranking(rows, np.array([sorted(scores, reverse=True)], dtype=np.float32)), products)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ours.run"
        write_run(path, ["q"], products, ranking)
        wanted = [products[row] for row in ranking.rows[0]]
        assert read_run(path) == {"q": wanted}
        assert trec_eval_order(path, "q") == wanted


def test_ties_are_ordered_by_identifier_descending() -> None:
    rows = np.array([[0, 1, 2, -1], [3, 2, 1, 0]], np.int32)
    scores = np.array([[0.0, -0.0, -1.0, -np.inf], [4, 3, 2, 1]], np.float32)
    ranking = trec_order(Ranking(rows, scores), ["a", "\u00e9", "c", "d"])
    assert ranking.rows.tolist() == [[1, 0, 2, -1], [3, 2, 1, 0]]


def test_file_has_the_true_scores_and_stops_at_empty_ranks(tmp_path: Path) -> None:
    rows = np.array([[1, 0, -1], [-1, -1, -1]], dtype=np.int32)
    scores = np.array([[0.1, 0.1, -np.inf], [-np.inf] * 3], dtype=np.float32)
    write_run(tmp_path / "a.run", ["q1", "q2"], ["x", "y"], Ranking(rows, scores), tag="t")
    assert (tmp_path / "a.run").read_text() == "q1 Q0 y 1 0.100000001 t\nq1 Q0 x 2 0.100000001 t\n"
    lines = (tmp_path / "a.run").read_text().split()
    assert np.float32(lines[4]) == np.float32(0.1)


def test_order_of_a_foreign_run_is_trec_evals(tmp_path: Path) -> None:
    path = tmp_path / "other.run"
    path.write_text(
        "q Q0 a 1 2.0 t\nq Q0 c 9 2.00000001 t\nq Q0 b 3 5 t\nq Q0 d 4 -3 t\n" + "q Q0 é 5 2 t\nr Q0 a 1 0 t\n"
    )
    # 2.00000001 and 2 are one 32-bit number, so that a, c and é tie and stand in descending order.
    assert read_run(path) == {"q": ["b", "é", "c", "a", "d"], "r": ["a"]}
    assert trec_eval_order(path, "q") == ["b", "é", "c", "a", "d"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q Q0 a 1 2.0\n", "line 1: 5 fields instead of six: a TREC run has `query Q0 product rank score tag`"),
        ("q Q0 a 1 2 t\nq Q0 b 1 high t\n", "line 2: the score 'high' is not a finite number"),
        ("q Q0 a 1 nan t\n", "line 1: the score 'nan' is not a finite number"),
        ("q Q0 a 1 2 t\n\nq Q0 a 2 1 t\n", "line 3: product a is listed twice for query q"),
        ("\n", "holds no line"),
    ],
)
def test_bad_runs(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.run").write_text(text)
    with pytest.raises(MaxsearchError) as caught:
        read_run(tmp_path / "bad.run")
    assert message in str(caught.value) and "bad.run" in str(caught.value)


def test_absent_run_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read_run(tmp_path / "none.run")
    with pytest.raises(MaxsearchError, match="cannot be read"):
        read_run(tmp_path)


@pytest.mark.parametrize(("query", "product"), [("q 1", "x"), ("q", "x\ty"), ("", "x")])
def test_identifiers_with_white_space_are_refused(tmp_path: Path, query: str, product: str) -> None:
    rows, scores = np.zeros((1, 1), np.int32), np.zeros((1, 1), np.float32)
    with pytest.raises(MaxsearchError, match="white space, which a TREC run cannot"):
        write_run(tmp_path / "a.run", [query], [product], Ranking(rows, scores))
    assert not (tmp_path / "a.run").exists()

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import AP, RR, P, R, Success, nDCG

from maxsearch.evaluation.metrics import PER_QUERY, Relevance, ndcg, reciprocal_rank, score
from maxsearch.evaluation.retrieval import Ranking
from maxsearch.evaluation.runs import trec_order

GAINS = {grade: 2**grade - 1 for grade in range(1, 4)}


def oracles(least: int) -> dict[str, object]:
    """ir_measures' names of our metrics."""
    return {
        "ndcg@10": nDCG(gains=GAINS) @ 10,
        "recall@10": R(rel=least) @ 10,
        "recall@100": R(rel=least) @ 100,
        "precision@10": P(rel=least) @ 10,
        "hit@10": Success(rel=least) @ 10,
        "mrr": RR(rel=least),
        "map": AP(rel=least),
    }


def theirs(least: int, judged: list[dict[int, int]], run: dict[str, dict[str, float]]) -> dict[tuple[str, int], float]:
    """Every metric of every query by ir_measures; 0 where a query is not in the run."""
    qrels = {f"q{query}": {f"p{row:04}": grade for row, grade in grades.items()} for query, grades in enumerate(judged)}
    wanted = oracles(least)
    found = {
        (str(value.measure), value.query_id): value.value
        for value in ir_measures.iter_calc(list(wanted.values()), qrels, run)
    }
    return {
        (name, query): found.get((str(oracle), f"q{query}"), 0.0)
        for name, oracle in wanted.items()
        for query in range(len(judged))
    }


def random_case(seed: int) -> tuple[list[dict[int, int]], dict[str, dict[str, float]], np.ndarray]:
    """Judgments, a run with many ties and without some queries, and its rows in trec_eval's order."""
    rng = np.random.default_rng(seed)
    products, judged, run = 300, [], {}
    rows = np.full((40, 150), -1, dtype=np.int32)
    for query in range(40):
        listed = rng.choice(products, size=rng.integers(1, 130), replace=False)
        judged.append(
            {int(row): int(grade) for row, grade in zip(listed, rng.integers(-1, 4, len(listed)), strict=True)}
        )
        if query % 5 == 0:
            continue
        ranked = rng.choice(products, size=rng.integers(1, 151), replace=False)
        scores = rng.integers(0, 12, len(ranked)) / 4
        run[f"q{query}"] = {f"p{row:04}": float(value) for row, value in zip(ranked, scores, strict=True)}
        rows[query, : len(ranked)] = [row for _, row in sorted(zip(scores, ranked, strict=True), reverse=True)]
    judged[1] = {0: 0}
    return judged, run, rows


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("relevant_grade", [1, 2])
def test_equal_to_ir_measures(seed: int, relevant_grade: int) -> None:
    judged, run, rows = random_case(seed)
    ours = score(rows, Relevance.build(judged, 300, relevant_grade=relevant_grade))
    assert set(ours) == set(PER_QUERY)
    for (name, query), wanted in theirs(relevant_grade, judged, run).items():
        assert abs(ours[name][query] - wanted) < 1e-6, (name, query)


@settings(max_examples=40, deadline=None)
@given(
    judged=st.lists(st.dictionaries(st.integers(0, 14), st.integers(-1, 3)), min_size=1, max_size=4),
    runs=st.lists(
        st.dictionaries(st.integers(0, 14), st.sampled_from([0.0, -0.0, 1.0, 0.5, 2e-38, -2.0, 3e38])), max_size=4
    ),
    order=st.permutations(range(15)),
    relevant_grade=st.integers(1, 2),
)
def test_any_run_equals_ir_measures(
    judged: list[dict[int, int]], runs: list[dict[int, float]], order: list[int], relevant_grade: int
) -> None:
    """Ties, queries that are missing, products that nobody judged, queries that have nothing relevant."""
    rows = np.full((len(judged), 15), -1, np.int32)
    scores = np.full((len(judged), 15), -np.inf, np.float32)
    run = {}
    for query, listed in enumerate(runs[: len(judged)]):
        ranked = sorted((order.index(row) for row in listed), key=lambda place: -np.float32(listed[order[place]]))
        rows[query, : len(ranked)] = ranked
        scores[query, : len(ranked)] = [listed[order[place]] for place in ranked]
        if listed:
            run[f"q{query}"] = {f"p{row:04}": score for row, score in listed.items()}
    # The catalogue holds the products in another order than that of their identifiers.
    ranking = trec_order(Ranking(rows, scores), [f"p{row:04}" for row in order])
    inside = [{order.index(row): grade for row, grade in grades.items()} for grades in judged]
    ours = score(ranking.rows, Relevance.build(inside, 15, relevant_grade=relevant_grade))
    for (name, query), wanted in theirs(relevant_grade, judged, run).items():
        assert abs(ours[name][query] - wanted) < 1e-6, (name, query)


def test_by_hand() -> None:
    relevance = Relevance.build([{3: 2, 5: 1, 7: 0}, {1: 1}], 9)
    values = score(np.array([[5, 7, 3], [0, -1, -1]], dtype=np.int32), relevance)
    ideal = 3 + 1 / np.log2(3)
    assert values["ndcg@10"].tolist() == pytest.approx([(1 + 3 / 2) / ideal, 0])
    assert values["recall@10"].tolist() == [1, 0]
    assert values["mrr"].tolist() == [1, 0]
    assert values["relevance@10"].tolist() == [3 / 20, 0]  # grades 1 and 2 of ten times the highest
    assert values["map"].tolist() == pytest.approx([(1 + 2 / 3) / 2, 0])
    assert values["precision@10"].tolist() == [0.2, 0] and values["hit@10"].tolist() == [1, 0]


def test_blocks_of_queries_give_what_all_at_once_give(monkeypatch: pytest.MonkeyPatch) -> None:
    judged, _, rows = random_case(9)
    relevance = Relevance.build(judged, 300)
    whole = score(rows, relevance)
    monkeypatch.setattr("maxsearch.evaluation.metrics.BLOCK", 7)
    for name, values in score(rows, relevance).items():
        np.testing.assert_array_equal(values, whole[name])


def test_grades_do_not_leak_between_queries() -> None:
    relevance = Relevance.build([{0: 1}, {8: 3}], 9)
    assert relevance.grades_of(np.array([[8, 0, -1], [8, 0, -1]])).tolist() == [[0, 1, 0], [3, 0, 0]]


def test_nothing_judged_and_nothing_ranked() -> None:
    values = score(np.empty((2, 0), dtype=np.int32), Relevance.build([{}, {1: 0}], 3))
    assert all(value.tolist() == [0, 0] for value in values.values())
    assert ndcg(np.zeros((1, 3), int), np.zeros((1, 3), int), 3).tolist() == [0]
    assert reciprocal_rank(np.array([[0, 0, 2]])).tolist() == [1 / 3]

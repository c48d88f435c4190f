import ir_measures
import numpy as np
import pytest
from ir_measures import RR, R, nDCG

from maxsearch.evaluation.metrics import METRICS, Relevance, bootstrap, ndcg, reciprocal_rank, score

GAINS = {grade: 2**grade - 1 for grade in range(1, 4)}
ORACLES = {"ndcg@10": nDCG(gains=GAINS) @ 10, "recall@10": R @ 10, "recall@100": R @ 100, "mrr": RR}


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
    oracles = dict(ORACLES)
    if relevant_grade == 2:
        oracles |= {"recall@10": R(rel=2) @ 10, "recall@100": R(rel=2) @ 100, "mrr": RR(rel=2)}
    qrels = {f"q{query}": {f"p{row:04}": grade for row, grade in grades.items()} for query, grades in enumerate(judged)}
    theirs = {
        (str(value.measure), value.query_id): value.value
        for value in ir_measures.iter_calc(list(oracles.values()), qrels, run)
    }
    assert set(ours) == set(METRICS)
    for name, oracle in oracles.items():
        for query in range(40):
            wanted = theirs.get((str(oracle), f"q{query}"), 0.0)
            assert abs(ours[name][query] - wanted) < 1e-6, (name, query)


def test_by_hand() -> None:
    relevance = Relevance.build([{3: 2, 5: 1, 7: 0}, {1: 1}], 9)
    values = score(np.array([[5, 7, 3], [0, -1, -1]], dtype=np.int32), relevance)
    ideal = 3 + 1 / np.log2(3)
    assert values["ndcg@10"].tolist() == pytest.approx([(1 + 3 / 2) / ideal, 0])
    assert values["recall@10"].tolist() == [1, 0]
    assert values["mrr"].tolist() == [1, 0]


def test_grades_do_not_leak_between_queries() -> None:
    relevance = Relevance.build([{0: 1}, {8: 3}], 9)
    assert relevance.grades_of(np.array([[8, 0, -1], [8, 0, -1]])).tolist() == [[0, 1, 0], [3, 0, 0]]


def test_nothing_judged_and_nothing_ranked() -> None:
    values = score(np.empty((2, 0), dtype=np.int32), Relevance.build([{}, {1: 0}], 3))
    assert all(value.tolist() == [0, 0] for value in values.values())
    assert ndcg(np.zeros((1, 3), int), np.zeros((1, 3), int), 3).tolist() == [0]
    assert reciprocal_rank(np.array([[0, 0, 2]])).tolist() == [1 / 3]


def test_bootstrap_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    samples = rng.exponential(size=(60, 400))
    inside = [interval.low < 1 < interval.high for interval in bootstrap(samples, resamples=1000)]
    assert 0.88 < np.mean(inside) < 0.97


def test_bootstrap_width_is_that_of_the_normal_interval() -> None:
    values = np.random.default_rng(1).random((1000, 1))
    (interval,) = bootstrap(values)
    half = 1.96 * values.std() / np.sqrt(1000)
    assert interval.mean == values.mean()
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_bootstrap_is_repeatable_and_does_not_depend_on_the_other_columns() -> None:
    values = np.random.default_rng(2).random((3000, 2))
    both = bootstrap(values, resamples=2000)
    assert both == bootstrap(values, resamples=2000)
    alone = bootstrap(values[:, 1:], resamples=2000)[0]
    assert (both[1].low, both[1].high) == pytest.approx((alone.low, alone.high))
    assert bootstrap(values, resamples=2000, seed=1) != both


def test_bootstrap_of_one_query() -> None:
    (interval,) = bootstrap(np.array([[0.25]]))
    assert (interval.mean, interval.low, interval.high) == (0.25, 0.25, 0.25)

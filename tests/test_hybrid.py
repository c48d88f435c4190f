"""Words and meaning in one ranking: fusion, tuning, refinement, re-ranking, and what is said of each result."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxsearch.data.records import Product
from maxsearch.errors import UsageError
from maxsearch.evaluation.metrics import Relevance
from maxsearch.serving.filters.boosts import FilterBoost
from maxsearch.serving.filters.masks import MaskCache
from maxsearch.serving.filters.pages import Paging, Pin, SegmentGroups, first_page, page
from maxsearch.serving.filters.planner import Plan
from maxsearch.serving.filters.tree import In, Node
from maxsearch.serving.hybrid.fuse import reciprocal_ranks, scaled, weighted
from maxsearch.serving.hybrid.lexical import BuiltLexical, LateLexical, build_lexical, open_lexical
from maxsearch.serving.hybrid.match import matching
from maxsearch.serving.hybrid.ranking import Fusion, HybridPlan, HybridRanking, HybridSettings, hits
from maxsearch.serving.hybrid.records import Legs
from maxsearch.serving.hybrid.refine import RefineSettings, divergence, refine, softmax
from maxsearch.serving.hybrid.tune import Candidates, stacked, tune_weight
from tests.filter_fakes import segment, vectors

DIM, COUNT, LATE = 8, 60, 6
WORDS = ["red", "blue", "leather", "cotton", "shoes", "shirt", "belt"]
RNG = np.random.default_rng(0)
TITLES = [" ".join(RNG.choice(WORDS, 3)) for _ in range(COUNT + LATE)]
ROWS = [{"colour": title.split()[0], "stock": str(i)} for i, title in enumerate(TITLES)]
DATA = vectors(COUNT + LATE, DIM, seed=9)
BASE = segment(ROWS[:COUNT], DATA[:COUNT], alive=np.arange(COUNT) % 10 != 0)
DELTA = segment(ROWS[COUNT:], DATA[COUNT:], key="delta")
QUERY = vectors(1, DIM, seed=10)[0]
LIVING = [row for row in range(COUNT + LATE) if row >= COUNT or row % 10]


@pytest.fixture(scope="module")
def legs(tmp_path_factory: pytest.TempPathFactory) -> tuple[BuiltLexical, LateLexical]:
    folder = tmp_path_factory.mktemp("hybrid") / "lexical"
    build_lexical(TITLES[:COUNT], folder)
    index = open_lexical(folder)
    return index, LateLexical(index, TITLES[COUNT:])


Both = tuple[BuiltLexical, LateLexical]


def hybrid(legs: Both, settings: HybridSettings, keep: Node | None = None, **further: Any) -> HybridPlan:
    plan = Plan.make([BASE, DELTA], QUERY, cache=MaskCache(), keep=keep, boosts=further.pop("boosts", ()))
    return HybridPlan(plan, legs, ["red", "shoe"], settings, **further)


def ordered(scores: dict[int, float]) -> list[int]:
    return sorted(scores, key=lambda row: (-scores[row], row))


def own(legs: Both) -> tuple[dict[int, float], dict[int, float]]:
    """Both legs' scores of every living row, by plain arithmetic."""
    words = np.concatenate([leg.scores(["red", "shoe"]) for leg in legs])
    return {row: float(DATA[row].astype(float) @ QUERY) for row in LIVING}, {row: float(words[row]) for row in LIVING}


def test_each_leg_alone_ranks_by_its_own_score(legs: Both) -> None:
    meaning, words = own(legs)
    dense = hybrid(legs, HybridSettings(Fusion.DENSE, candidates=200)).ranking()
    assert dense.rows.tolist() == ordered(meaning)
    assert dense.exact and dense.complete
    lexical = hybrid(legs, HybridSettings(Fusion.LEXICAL, candidates=200)).ranking()
    assert lexical.rows.tolist() == ordered({row: score for row, score in words.items() if score > 0})
    np.testing.assert_allclose(lexical.scores, [words[row] for row in lexical.rows.tolist()])
    assert max(lexical.rows) >= COUNT  # what came later is found, too
    assert lexical.complete
    assert not hybrid(legs, HybridSettings(Fusion.LEXICAL, candidates=5)).ranking().complete
    for row, score in zip(dense.rows.tolist(), dense.dense.tolist(), strict=True):
        assert score == pytest.approx(meaning[row], abs=1e-6)
        assert dense.legs(row) == Legs(dense=score, lexical=words[row])


def test_rank_fusion_adds_reciprocal_ranks(legs: Both) -> None:
    meaning, words = own(legs)
    first = ordered(meaning)[:20]
    second = ordered({row: score for row, score in words.items() if score > 0})[:20]
    expected = {
        row: sum(1 / (60 + ranking.index(row) + 1) for ranking in (first, second) if row in ranking)
        for row in {*first, *second}
    }
    found = hybrid(legs, HybridSettings(Fusion.RRF, candidates=20)).ranking()
    np.testing.assert_allclose(found.scores, sorted(expected.values(), reverse=True))
    assert {row: pytest.approx(score) for row, score in zip(found.rows.tolist(), found.scores, strict=True)} == expected
    assert not found.complete
    with pytest.raises(UsageError, match="must not be negative"):
        reciprocal_ranks(np.array([1]), [np.array([1])], k=-1)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_a_weighted_sum_mixes_scaled_scores(legs: Both, weight: float) -> None:
    meaning, words = own(legs)
    top, most = max(meaning.values()), max(words.values())
    mixed = {row: weight * (meaning[row] + 1) / (top + 1) + (1 - weight) * words[row] / most for row in LIVING}
    found = hybrid(legs, HybridSettings(Fusion.WEIGHTED, candidates=200, weight=weight)).ranking()
    np.testing.assert_allclose(found.scores, [mixed[row] for row in found.rows.tolist()], atol=1e-6)
    np.testing.assert_allclose(found.scores, sorted(mixed.values(), reverse=True), atol=1e-6)


def test_a_leg_that_says_nothing_adds_nothing() -> None:
    assert scaled(np.zeros(3), 0.0).tolist() == [0, 0, 0]
    assert scaled(np.zeros(0), 0.0).tolist() == []
    dense = np.array([0.5, 0.9, -0.2])
    mixed = weighted(dense, np.zeros(3), 0.5)
    assert np.argsort(-mixed).tolist() == [1, 0, 2]
    with pytest.raises(UsageError, match=r"must be from 0 to 1, and is 1.5"):
        weighted(dense, dense, 1.5)


def test_meaning_alone_needs_no_index_of_words_and_goes_by_boosts(legs: Both) -> None:
    boosts = [FilterBoost(In("colour", ("belt",)), add=5.0)]
    settings = HybridSettings(Fusion.DENSE, candidates=4)
    plan = hybrid(legs, settings, boosts=boosts)
    without = replace(plan, legs=())
    for found in (plan.ranking(), without.ranking()):
        assert found.rows.tolist() == plan.plan.ranking(4).rows.tolist()
        assert {ROWS[row]["colour"] for row in found.rows.tolist()} == {"belt"}
        assert found.exact
    assert without.ranking().legs(int(without.ranking().rows[0])).lexical is None
    with pytest.raises(UsageError, match="searching by words needs an index of words"):
        replace(without, settings=HybridSettings(Fusion.RRF)).ranking()


@pytest.mark.parametrize("fusion", list(Fusion))
@pytest.mark.parametrize("refined", [None, RefineSettings()])
def test_every_candidate_passes_the_filter(legs: Both, fusion: Fusion, refined: RefineSettings | None) -> None:
    keep = In("colour", ("red", "cotton"))
    found = hybrid(legs, HybridSettings(fusion, candidates=10, refine=refined), keep).ranking()
    assert len(found.rows)
    assert all(ROWS[row]["colour"] in ("red", "cotton") and row in LIVING for row in found.rows.tolist())
    assert (np.diff(found.scores) <= 0).all()


def test_boosts_act_on_the_fused_score(legs: Both) -> None:
    settings = HybridSettings(Fusion.WEIGHTED, candidates=200)
    plain = hybrid(legs, settings).ranking()
    boosted = hybrid(legs, settings, boosts=[FilterBoost(In("colour", ("belt",)), add=5.0)]).ranking()
    belts = [row for row in plain.rows.tolist() if ROWS[row]["colour"] == "belt"]
    assert boosted.rows.tolist()[: len(belts)] == belts
    np.testing.assert_allclose(boosted.scores[: len(belts)], [plain.scores[plain.rows == row][0] + 5 for row in belts])
    few = replace(settings, candidates=3)
    assert hybrid(legs, few).ranking().exact
    assert not hybrid(legs, few, boosts=[FilterBoost(In("colour", ("belt",)), add=5.0)]).ranking().exact


def test_the_matching_head_orders_the_first_ranks_and_pages_stay_whole(legs: Both) -> None:
    settings = HybridSettings(Fusion.RRF, candidates=200, rerank=10)
    plain = hybrid(legs, replace(settings, rerank=0)).ranking()
    asked = []

    def match(rows: np.ndarray) -> np.ndarray:
        asked.append(rows.tolist())
        return (-rows).astype(np.float32)

    plan = hybrid(legs, settings, matching=match)
    found = plan.ranking()
    assert found.rows.tolist() == sorted(plain.rows[:10].tolist()) + plain.rows[10:].tolist()
    assert (np.diff(found.scores) < 0).all()
    assert found.legs(int(found.rows[0])).match == -found.rows[0]
    assert found.legs(int(found.rows[10])).match is None
    np.testing.assert_allclose(found.scores, plain.scores, atol=1e-12)
    rows, start = [], first_page("g", "r")
    while True:
        shown, _ = page(plan.ranking, SegmentGroups(plan.plan.segments, plan.plan.selections), Paging(7), start)
        rows += [entry.row for entry in shown.entries]
        if shown.following is None:
            break
        start = shown.following
    assert rows == found.rows.tolist()
    assert len(asked) == 1
    with pytest.raises(UsageError, match="re-ranking needs a model with a matching head"):
        hybrid(legs, settings).ranking()


def test_the_matching_head_is_asked_about_one_query_and_the_first_products(legs: Both) -> None:
    class Head:
        def match(self, queries: Sequence[str], products: Sequence[Product], pairs: np.ndarray) -> np.ndarray:
            assert list(queries) == ["red shoes"]
            assert pairs.tolist() == [[0, i] for i in range(len(products))]
            return np.array([float(product.product_id) for product in products], np.float32)

    scorer = matching(Head(), "red shoes", lambda rows: [Product(str(row), TITLES[row]) for row in rows])
    found = hybrid(legs, HybridSettings(Fusion.DENSE, rerank=5), matching=scorer).ranking()
    first = found.rows[:5].tolist()
    assert first == sorted(first, reverse=True)
    assert [found.legs(row).match for row in first] == first


def test_a_result_says_what_each_leg_said(legs: Both) -> None:
    plan = hybrid(legs, HybridSettings(Fusion.WEIGHTED, candidates=5, refine=RefineSettings()))
    ranking: HybridRanking = plan.ranking()
    absent = next(row for row in LIVING if row not in ranking.rows)
    cut, _ = page(
        plan.ranking,
        SegmentGroups(plan.plan.segments, plan.plan.selections),
        Paging(3, pins=(Pin(2, absent),)),
        first_page("g", "r"),
    )
    found = hits(cut, ranking, lambda rows: [f"p{row}" for row in rows])
    assert [hit.product_id for hit in found] == [f"p{ranking.rows[0]}", f"p{absent}", f"p{ranking.rows[1]}"]
    assert (found[1].score, found[1].legs, found[1].pinned) == (None, Legs(), True)
    value = json.loads(json.dumps(found[0].to_json(), allow_nan=False))
    assert set(value) == {"product_id", "rank", "score", "legs", "variants", "pinned", "exact"}
    assert set(value["legs"]) == {"dense", "lexical", "refined", "match"}
    assert value["legs"]["match"] is None
    assert value["legs"]["refined"] == ranking.refined[0]  # type: ignore[index]
    assert value["exact"] is True


def test_refining_moves_the_query_towards_the_guide() -> None:
    candidates, query = vectors(30, DIM, seed=1), vectors(1, DIM, seed=2)[0]
    guide = np.zeros(30)
    guide[[4, 9]] = [3.0, 6.0]
    settings = RefineSettings(steps=30, rate=0.02, share=0.5)
    told = softmax(guide / 6 / settings.guide_temperature)
    mixture = 0.5 * softmax(candidates.astype(float) @ query / settings.temperature) + 0.5 * told
    gaps = [
        divergence(refine(query, candidates, guide, replace(settings, steps=steps)), candidates, mixture, 0.05)
        for steps in (0, 3, 10, 30)
    ]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 0.5 * gaps[0]
    refined = refine(query, candidates, guide, settings)
    assert np.linalg.norm(refined) == pytest.approx(1)
    assert candidates[9] @ refined > candidates[9] @ query + 0.1
    for still in (replace(settings, steps=0), replace(settings, share=0.0)):
        np.testing.assert_allclose(refine(query, candidates, guide, still), query, atol=1e-6)
    np.testing.assert_array_equal(refine(query, candidates, np.full(30, 2.0), settings), query)
    np.testing.assert_array_equal(refine(query, candidates[:0], guide[:0], settings), query)


def test_the_refinements_gradient_is_that_of_the_divergence() -> None:
    candidates, query = vectors(12, DIM, seed=3).astype(np.float64), vectors(1, DIM, seed=4)[0].astype(np.float64)
    mixture = softmax(np.random.default_rng(0).normal(size=12))
    gradient = candidates.T @ (softmax(candidates @ query / 0.3) - mixture) / 0.3

    def gap(z: np.ndarray) -> float:
        return float((mixture * (np.log(mixture) - np.log(softmax(candidates @ z / 0.3)))).sum())

    numeric = [(gap(query + 1e-6 * e) - gap(query - 1e-6 * e)) / 2e-6 for e in np.eye(DIM)]
    np.testing.assert_allclose(gradient, numeric, atol=1e-6)
    assert divergence(query.astype(np.float32), candidates.astype(np.float32), mixture, 0.3) == pytest.approx(
        gap(query)
    )


@pytest.mark.parametrize("wrong", [{"steps": -1}, {"rate": 0.0}, {"share": 1.5}, {"temperature": 0.0}])
def test_a_refinement_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="a refinement needs"):
        RefineSettings(**wrong)


@pytest.mark.parametrize("wrong", [{"candidates": 0}, {"weight": -0.1}, {"rerank": -1}, {"rrf_k": -2}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"candidate|from 0 to 1|negative"):
        HybridSettings(**wrong)


def test_the_weight_is_tuned_to_the_leg_that_knows() -> None:
    """Products 0..9 are relevant; one leg finds them, the other is noise."""
    rng = np.random.default_rng(0)
    rows = np.arange(50)
    knows, noise = (rows < 10) + 0.1 * rng.random((20, 50)), rng.random((20, 50))
    relevance = Relevance.build([dict.fromkeys(range(10), 1)] * 20, 50)
    by_words = tune_weight(
        [Candidates(rows, n, k) for n, k in zip(noise, knows, strict=True)], relevance, resamples=200
    )
    assert by_words.weight < 0.8
    assert dict(by_words.curve)[by_words.weight] == 1.0
    assert by_words.gain.mean == pytest.approx(1 - dict(by_words.curve)[1.0])
    assert by_words.gain.p < 0.01
    by_meaning = tune_weight(
        [Candidates(rows, k, n) for n, k in zip(noise, knows, strict=True)], relevance, grid=[0.0, 0.5], resamples=200
    )
    assert by_meaning.weight == 1.0  # tried though the grid leaves it out
    assert by_meaning.gain.mean == 0
    json.dumps(by_words.to_json(), allow_nan=False)
    with pytest.raises(UsageError, match="there is no judged query to tune the weight on"):
        tune_weight([], relevance)


@given(st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1, max_size=4), st.integers(1, 6))
def test_rankings_are_stacked_and_padded(rankings: list[list[int]], k: int) -> None:
    found = stacked([np.array(ranking, np.int64) for ranking in rankings], k)
    assert found.tolist() == [(ranking + [-1] * k)[:k] for ranking in rankings]


def test_vectors_of_both_segments_are_given_by_row() -> None:
    plan = Plan.make([BASE, DELTA], QUERY, cache=MaskCache())
    rows = np.array([COUNT + 2, 3, COUNT, 59])
    np.testing.assert_array_equal(plan.vectors(rows), DATA[rows])
    np.testing.assert_allclose(plan.dense(rows), DATA[rows] @ QUERY, atol=1e-6)

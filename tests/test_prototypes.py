from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxsearch.data import prototypes
from maxsearch.data.prototypes import MOMENTUM, Verdicts, agreement, clusters, judge, moved

N, C, E = 60, 4, 8


def _vectors(seed: int, wrong: int = 6, labels_wrong: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Titles and pictures about their categories' centres, apart from each other; the first pictures are of others.

    The `labels_wrong` last products have another category than titles and pictures say.
    """
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(C, E)) * 3
    true = np.concatenate([np.arange(C), rng.integers(C, size=N - C)])
    shown = true.copy()
    shown[:wrong] = (true[:wrong] + 1) % C
    title, image = (centres[of] + 0.6 * rng.normal(size=(N, E)) + rng.normal(size=E) * 4 for of in (true, shown))
    category = true.copy()
    if labels_wrong:
        category[-labels_wrong:] = (true[-labels_wrong:] + 1) % C
    return title.astype(np.float32), image.astype(np.float32), category


def _plain_unit(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).sum())


def _plain(title: np.ndarray, image: np.ndarray, category: np.ndarray) -> tuple[np.ndarray, ...]:
    """`judge` product by product in float64, written from its description."""
    t = np.array([_plain_unit(x - title.astype(float).mean(0)) for x in title.astype(float)])
    v = np.array([_plain_unit(x - image.astype(float).mean(0)) for x in image.astype(float)])
    start = [_plain_unit(sum(t[i] for i in range(N) if category[i] == c)) for c in range(C)]

    def shares(stands: list[np.ndarray]) -> np.ndarray:
        rows = []
        for i in range(N):
            own = _plain_unit(0.5 * stands[category[i]] + 0.5 * t[i])
            e = np.exp([10 * v[i] @ (own if c == category[i] else stands[c]) for c in range(C)])
            rows.append(e / e.sum())
        return np.array(rows)

    stands = start
    for _ in range(3):
        share = shares(stands)
        following = []
        for c in range(C):
            kept = [v[i] for i in range(N) if category[i] == c and share[i, c] >= 1 / C]
            stays = 0.999 ** len(kept)
            following.append(_plain_unit(stays * start[c] + (1 - stays) * (np.mean(kept, 0) if kept else 0)))
        stands = following
    share = shares(stands)
    own, best = share[np.arange(N), category], share.argmax(1)
    mismatch = own < 1 / C
    title_says = np.array([int(np.argmax([x @ s for s in start])) for x in t])
    return own, best, share.max(1), mismatch, mismatch & (share.max(1) >= 0.6) & (title_says == best)


@pytest.mark.parametrize("seed", range(4))
def test_judge_agrees_with_the_plain_reference(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prototypes, "BLOCK", 7)  # several blocks, the last one not full
    title, image, category = _vectors(seed, labels_wrong=5)
    verdicts = judge(title, image, category, C)
    own, best, best_share, mismatch, mislabelled = _plain(title, image, category)
    np.testing.assert_allclose(verdicts.own, own, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(verdicts.best_share, best_share, rtol=1e-4)
    np.testing.assert_array_equal(verdicts.best, best)
    np.testing.assert_array_equal(verdicts.mismatch, mismatch)
    np.testing.assert_array_equal(verdicts.mislabelled, mislabelled)


def test_a_wrong_picture_and_a_wrong_label_are_told_apart() -> None:
    title, image, category = _vectors(1, wrong=6, labels_wrong=5)
    verdicts = judge(title, image, category, C)
    assert np.flatnonzero(verdicts.mismatch & ~verdicts.mislabelled).tolist() == list(range(6))
    assert np.flatnonzero(verdicts.mislabelled).tolist() == list(range(N - 5, N))
    assert ((verdicts.best[-5:] + 1) % C == category[-5:]).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 50), order=st.permutations(range(N)))
def test_the_order_of_the_products_decides_nothing(seed: int, order: list[int]) -> None:
    title, image, category = _vectors(seed, labels_wrong=3)
    straight, mixed = judge(title, image, category, C), judge(title[order], image[order], category[order], C)
    np.testing.assert_allclose(mixed.own, straight.own[order], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(mixed.best_share, straight.best_share[order], rtol=1e-3)


def test_moved_is_the_mean_over_all_orders_of_the_moving_average() -> None:
    rng = np.random.default_rng(0)
    start, pictures = rng.normal(size=(2, E)), rng.normal(size=(4, E))
    ends = []
    for order in permutations(range(4)):
        average = start[0]
        for i in order:
            average = MOMENTUM * average + (1 - MOMENTUM) * pictures[i]
        ends.append(average)
    got = moved(start, pictures, np.zeros(4, int))
    np.testing.assert_allclose(got[0], _plain_unit(np.mean(ends, 0)), rtol=1e-5)
    np.testing.assert_allclose(got[1], _plain_unit(start[1]), rtol=1e-5)  # no picture, no move


def test_clusters_find_the_groups_of_titles() -> None:
    title, _, category = _vectors(2)
    cluster, nearest = clusters(title)
    assert cluster.min() == 0
    assert np.bincount(cluster).min() >= 1
    assert cluster.max() + 1 == len(nearest) <= round(3 * N**0.5)
    assert (cluster[nearest] == np.arange(len(nearest))).all()
    for one in range(len(nearest)):
        assert len(set(category[cluster == one].tolist())) == 1
    again, _ = clusters(title)
    assert (again == cluster).all()


def test_clusters_of_equal_titles_are_one() -> None:
    title = np.repeat(np.eye(2, E, dtype=np.float32), 20, axis=0)
    cluster, nearest = clusters(title)
    assert len(nearest) == 2
    assert (cluster == np.repeat(cluster[[0, 20]], 20)).all()


def test_agreement_of_related_and_unrelated_vectors() -> None:
    title, image, _ = _vectors(3, wrong=0)
    assert agreement(title, image) > 0.7
    assert abs(agreement(title, np.random.default_rng(0).permutation(image))) < 0.2
    assert agreement(title, np.ones_like(image)) == 0


def test_a_category_of_one_product_is_judged_by_its_title() -> None:
    title, image, category = _vectors(4)
    verdicts: Verdicts = judge(title, image, np.where(np.arange(N) == N - 1, C, category), C + 1)
    assert np.isfinite(verdicts.own).all()

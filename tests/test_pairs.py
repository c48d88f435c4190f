"""The contrastive terms with masks, bank, same-side negatives and softened targets, and the masks themselves."""

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxsearch.config import BankConfig, LossConfig
from maxsearch.errors import UsageError
from maxsearch.losses.bank import Bank
from maxsearch.losses.masks import contained_pairs
from maxsearch.losses.pairs import pair_terms
from tests.loss_context import (
    SCALE,
    SIDES,
    B,
    differences,
    four_sides,
    make_batch,
    make_context,
    make_outputs,
    permuted,
    together,
    units,
)

K, V = 7, 12
GRID = {
    "query_product": 1.0,
    "query_title": 0.5,
    "query_image": 0.25,
    "title_image": 2.0,
    "title_product": 0.75,
    "image_product": 1.5,
}
EVERY = LossConfig(
    **GRID,
    kind="am_softmax",
    pair_power=0.5,
    keyword_mask=True,
    soft_labels=0.3,
    same_side=0.8,
    momentum=0.4,
    bank=BankConfig(size=K),
)
CONFIGS = {
    "am": LossConfig(**GRID, kind="am_softmax"),
    "sdm": LossConfig(**GRID, kind="sdm", keyword_mask=True),
    "sigmoid": LossConfig(**GRID, kind="sigmoid", keyword_mask=True),
    "masked": LossConfig(**GRID, keyword_mask=True),
    "soft": LossConfig(**GRID, soft_labels=0.3),
    "same side": LossConfig(**GRID, same_side=0.8),
    "momentum": LossConfig(**GRID, momentum=0.4),
    "bank": LossConfig(**GRID, bank=BankConfig(size=K)),
    "every": EVERY,
}
PROGRESS = np.float32(0.5)

pytestmark = pytest.mark.usefixtures("one_device", "quick_compile")


def keyword_batch() -> dict[str, np.ndarray]:
    """Six pairs; products 2 and 3 have all words of queries 0 and 4, whose product they are not."""
    query, product = np.full((B, 4), -1, np.int32), np.full((B, 5), -1, np.int32)
    query[0, :3], query[1, :2], query[2, :1], query[4, :1] = (3, 5, 3), (5, 9), 1, 7
    product[2, :3], product[3, 1:4], product[5, :2] = (5, 3, 8), (7, 5, 3), (1, 9)
    covered = np.array([1, 1, 0, 1, 1, 1], bool)
    return make_batch() | {"query_keywords": query, "query_covered": covered, "product_keywords": product}


def contained_reference(query: np.ndarray, covered: np.ndarray, product: np.ndarray) -> np.ndarray:
    words = [{int(word) for word in row if word >= 0} for row in query]
    has = [{int(word) for word in row if word >= 0} for row in product]
    return np.array([[bool(covered[i] and words[i] and words[i] <= row) for row in has] for i in range(len(words))])


def make_bank(filled: int = 5) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Vectors and arrays of a bank: its first shares a product, the second a query, the third a variant group."""
    keywords = np.full((K, 3), -1, np.int32)
    keywords[3, :2], keywords[6, :2] = (3, 5), (3, 5)
    return units(55, K), {
        "product": np.array([1, 90, 91, 92, 93, 94, 95], np.int32),
        "variant": np.array([-1, -1, 7, -1, 8, -1, -1], np.int32),
        "query": np.array([80, 5, 81, 82, 83, 84, 85], np.int32),
        "keywords": keywords,
        "filled": np.int32(filled),
        "position": np.int32(filled % K),
    }


@functools.cache
def compiled(kind: str) -> Any:
    config = CONFIGS[kind]

    def run(vectors: Any, averaged: Any, batch: Any, bank: Any) -> Any:
        context = make_context(
            vectors,
            batch,
            config,
            progress=PROGRESS * jnp.ones(()),
            targets=make_outputs(averaged, scale=5.0) if config.momentum else None,
            bank=Bank(vectors=bank[0], **bank[1]) if config.bank.size else None,
            keywords=V,
        )
        return pair_terms(context)

    return jax.jit(run)


def ours(kind: str, vectors: Any, averaged: Any, batch: Any, bank: Any) -> Any:
    return compiled(kind)(vectors, averaged, batch, bank)


def reference(
    kind: str, vectors: dict[str, Any], averaged: dict[str, Any], batch: dict[str, Any], bank: Any
) -> dict[str, float]:
    """Every term by its name, written out row by row and positive by positive."""
    config = CONFIGS[kind]
    known = together(batch)
    contained = contained_reference(batch["query_keywords"], batch["query_covered"], batch["product_keywords"])
    stored, about = bank
    in_bank = contained_reference(batch["query_keywords"], batch["query_covered"], about["keywords"])
    known_bank = together(batch, about)
    present = {name: np.ones(B, bool) for name in SIDES}
    present["title"], present["image"] = batch["title_mask"].any(axis=1), batch["image_present"].any(axis=1)
    vectors = {name: value.astype(float) for name, value in vectors.items()}
    weights = batch["weight"].astype(float) ** config.pair_power

    def row(left: str, right: str, i: int) -> float | None:
        if not present[left][i]:
            return None
        a = vectors[left][i]

        def masked(j: int) -> bool:
            one, other = (i, j) if left == "query" else (j, i)
            return config.keyword_mask and "query" in (left, right) and contained[one, other]

        positives = [j for j in range(B) if known[i, j] and present[right][j]]
        negatives = [j for j in range(B) if not known[i, j] and present[right][j] and not masked(j)]
        cosine = {j: float(a @ vectors[right][j]) for j in positives + negatives}
        if not positives:
            return None
        if kind == "sdm":
            p = np.exp([SCALE * cosine[j] for j in cosine])
            p /= p.sum()
            q = np.array([j in positives for j in cosine]) / len(positives)
            return float((p * (np.log(p) - np.log(q + 1e-8))).sum())
        logits = [SCALE * cosine[j] for j in negatives]
        older = averaged[left][i].astype(float)
        average = [5.0 * float(older @ averaged[right][j]) for j in negatives]
        if config.bank.size and right == "product":
            for j in range(about["filled"]):
                hidden = config.keyword_mask and left == "query" and in_bank[i, j]
                if not known_bank[i, j] and not hidden:
                    logits.append(SCALE * float(a @ stored[j]))
                    average.append(5.0 * float(older @ stored[j]))
        guided = len(logits)
        if config.same_side:
            same = [j for j in range(B) if not known[i, j] and present[left][j]]
            logits += [config.same_side * SCALE * float(a @ vectors[left][j]) for j in same]
        margin = config.margin if config.kind == "am_softmax" else 0.0
        each = []
        for k in positives:
            every = np.array([SCALE * (cosine[k] - margin), *logits])
            target = np.eye(1, len(every))[0]
            if guided:
                share = config.soft_labels * PROGRESS
                mass = np.exp(np.array(logits[:guided]))
                target[0] -= share
                target[1 : guided + 1] += share * mass / mass.sum()
                mass = np.exp(np.array([5.0 * float(older @ averaged[right][k]), *average]))
                target[0] -= config.momentum
                target[: guided + 1] += config.momentum * mass / mass.sum()
            each.append(-target @ (every - np.log(np.exp(every).sum())))
        return float(np.mean(each))

    def pairwise(left: str, right: str, i: int) -> float | None:
        total, any_pair = 0.0, False
        for j in range(B):
            hidden = config.keyword_mask and left == "query" and contained[i, j] and not known[i, j]
            if present[left][i] and present[right][j] and not hidden:
                logit = SCALE * float(vectors[left][i] @ vectors[right][j]) - 3
                total += np.log1p(np.exp(-logit if known[i, j] else logit))
                any_pair = True
        return total if any_pair else None

    def mean(left: str, right: str) -> float:
        each = [(pairwise if kind == "sigmoid" else row)(left, right, i) for i in range(B)]
        has = [i for i in range(B) if each[i] is not None]
        return sum(weights[i] * each[i] for i in has) / sum(weights[i] for i in has)

    terms = {}
    for name in GRID:
        left, right = name.split("_")
        if kind == "sigmoid":
            terms[name] = mean(left, right)
        else:
            terms[name] = (mean(left, right) + mean(right, left)) * (1 if kind == "sdm" else 0.5)
    return terms


@pytest.mark.parametrize("kind", list(CONFIGS))
def test_every_term_equals_the_reference(kind):
    arguments = four_sides(1), four_sides(2), keyword_batch(), make_bank()
    terms, expected = ours(kind, *arguments), reference(kind, *arguments)
    assert set(terms) == set(GRID)
    for name, value in expected.items():
        assert terms[name] == pytest.approx(value, rel=3e-5), name


def test_gradient_of_every_term_at_once_equals_finite_differences_without_the_stopped_paths():
    """The guide of soft labels has no gradient: in the reference it is the same at every point."""
    vectors, averaged, batch, bank = four_sides(1), four_sides(2), keyword_batch(), make_bank()

    def total(values: dict[str, Any]) -> Any:
        return sum(GRID[name] * value for name, value in ours("bank", values, averaged, batch, bank).items())

    found = jax.grad(total)(vectors)
    for name in ("query", "product"):
        expected = differences(
            lambda value, name=name: sum(
                GRID[term] * loss
                for term, loss in reference("bank", vectors | {name: value}, averaged, batch, bank).items()
            ),
            vectors[name],
        )[0]
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-4)


def test_masked_rows_places_and_words_change_nothing():
    vectors, averaged, batch, bank = four_sides(1), four_sides(2), keyword_batch(), make_bank()
    before = ours("every", vectors, averaged, batch, bank)
    other = four_sides(9)
    vectors["title"][1], vectors["image"][2] = other["title"][1], other["image"][2]
    averaged["title"][1], averaged["image"][2] = other["title"][1], other["image"][2]
    bank[0][5:] = units(66, 2)  # beyond what is filled
    for name in ("product", "query", "variant"):
        bank[1][name][5:] = 4
    assert ours("every", vectors, averaged, batch, bank) == before


@pytest.mark.parametrize("kind", ["masked", "sdm", "sigmoid"])
def test_only_terms_with_the_query_on_one_side_feel_the_keyword_mask(kind):
    arguments, batch = (four_sides(1), four_sides(2)), keyword_batch()
    masked = ours(kind, *arguments, batch, make_bank())
    whole = ours(kind, *arguments, batch | {"query_covered": np.zeros(B, bool)}, make_bank())
    for name in GRID:
        assert (masked[name] == whole[name]) == ("query" not in name)


def test_positives_stay_positives_though_the_keywords_contain_them():
    batch = keyword_batch()
    batch["product_keywords"] = np.tile(np.arange(5, dtype=np.int32) * 2 + 1, (B, 1))  # 1 3 5 7 9: all words
    terms = ours("masked", four_sides(1), four_sides(2), batch, make_bank())
    expected = reference("masked", four_sides(1), four_sides(2), batch, make_bank())
    assert terms["query_product"] == pytest.approx(expected["query_product"], rel=3e-5)
    assert terms["query_product"] > 0


def test_a_batch_without_keywords_has_no_mask():
    batch, bank = make_batch(), make_bank()
    masked = ours("masked", four_sides(1), four_sides(2), batch, bank)
    plain = ours("bank", four_sides(1), four_sides(2), batch, (bank[0], bank[1] | {"filled": np.int32(0)}))
    assert masked == {name: pytest.approx(float(value), rel=1e-6) for name, value in plain.items()}


def test_soft_labels_start_at_none():
    config = LossConfig(title_image=0.5, soft_labels=0.3)
    context = make_context(four_sides(1), make_batch(), config)
    plain = replace(context, config=replace(config, soft_labels=0.0))
    found, expected = jax.jit(lambda: (pair_terms(context), pair_terms(plain)))()
    assert found == {name: pytest.approx(float(value), rel=1e-6) for name, value in expected.items()}


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), order=st.permutations(range(B)))
def test_permuting_the_batch_keeps_every_term(seed, order):
    order = np.array(order)
    arguments = four_sides(seed), four_sides(seed + 1), keyword_batch()
    terms = ours("every", *arguments, make_bank())
    moved = ours("every", *(permuted(tree, order) for tree in arguments), make_bank())
    for name, value in terms.items():
        assert moved[name] == pytest.approx(float(value), rel=2e-5, abs=1e-5)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000))
def test_a_product_contains_a_query_when_it_has_all_of_its_words(seed):
    rng = np.random.default_rng(seed)
    query = np.where(rng.random((B, 3)) < 0.6, rng.integers(0, V, (B, 3)), -1).astype(np.int32)
    product = np.where(rng.random((9, 6)) < 0.8, rng.integers(0, V, (9, 6)), -1).astype(np.int32)
    covered = rng.random(B) < 0.8
    found = jax.jit(contained_pairs, static_argnums=3)(query, covered, product, V)
    np.testing.assert_array_equal(found, contained_reference(query, covered, product))


@pytest.mark.parametrize(
    "changes", [{"momentum": 0.2}, {"bank": BankConfig(size=8)}, {"same_side": 1.0}, {"soft_labels": 0.1}]
)
@pytest.mark.parametrize("kind", ["sigmoid", "sdm"])
def test_kinds_without_rows_to_soften_refuse_what_softens(kind, changes):
    with pytest.raises(UsageError, match=rf"loss\.kind {kind} has no rows to soften or lengthen"):
        LossConfig(kind=kind, **changes)


def test_shares_of_one_target_must_leave_something():
    with pytest.raises(UsageError, match=r"loss\.soft_labels and loss\.momentum share a target"):
        LossConfig(soft_labels=0.5, momentum=0.5)

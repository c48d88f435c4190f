"""The softmax loss with margin, further negatives and softened targets against plain float64 NumPy."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxsearch.losses.contrastive import Guide, Negatives, softmax_loss
from tests.loss_context import SCALE, B, differences, units

C = 4
WEIGHTS = np.arange(1.0, B + 1)

pytestmark = pytest.mark.usefixtures("one_device", "quick_compile")


class Case(NamedTuple):
    """Arguments of the loss; `extra` are further logits, `near` and `far` the guides' (far with further columns)."""

    left: np.ndarray
    right: np.ndarray
    positive: np.ndarray
    valid: np.ndarray
    extra: np.ndarray
    extra_valid: np.ndarray
    near: np.ndarray
    far: np.ndarray


OPTIONS = {
    "margin": {"margin": 0.3},
    "further": {"further": True},
    "soft": {"soft": 0.25},
    "momentum": {"momentum": 0.4},
    "all": {"margin": 0.3, "further": True, "soft": 0.25, "momentum": 0.4},
}
KINDS = pytest.mark.parametrize("kind", list(OPTIONS))


def make_case(seed: int) -> Case:
    rng = np.random.default_rng(seed)
    positive = np.eye(B, dtype=bool) | (rng.random((B, B)) < 0.25)
    valid = np.ones((B, B), bool)
    valid[1], valid[:, 4] = False, False
    extra_valid = rng.random((B, C)) < 0.7
    extra_valid[1] = False
    logits = [rng.normal(size=shape, scale=4).astype(np.float32) for shape in ((B, C), (B, B), (B, B + C))]
    return Case(units(seed), units(seed + 100), positive, valid, logits[0], extra_valid, logits[1], logits[2])


def compiled(kind: str) -> Any:
    options = OPTIONS[kind]

    def run(case: Case) -> Any:
        further = (Negatives(case.extra, case.extra_valid),) if "further" in options else ()
        guides = []
        if "soft" in options:
            guides.append(Guide(case.near, jnp.float32(options["soft"]), keeps=False))
        if "momentum" in options:
            far = case.far if further else case.far[:, :B]
            guides.append(Guide(far, jnp.float32(options["momentum"]), keeps=True))
        arrays = case.left, case.right, case.positive, case.valid, jnp.float32(SCALE)
        return softmax_loss(*arrays, margin=options.get("margin", 0.0), further=further, guides=tuple(guides))

    return jax.jit(run)


OURS = {kind: compiled(kind) for kind in OPTIONS}


def reference(kind: str, case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Each positive with the negatives of its row: a target over them, and its cross entropy."""
    options = OPTIONS[kind]
    cosines = case.left.astype(float) @ case.right.astype(float).T
    losses, has = np.zeros(B), np.zeros(B, bool)
    for i in range(B):
        columns = [j for j in range(B) if case.valid[i, j] and not case.positive[i, j]]
        logits = [SCALE * cosines[i, j] for j in columns]
        if "further" in options:
            columns += [B + j for j in range(C) if case.extra_valid[i, j]]
            logits += [float(case.extra[i, j]) for j in range(C) if case.extra_valid[i, j]]
        each = []
        for k in range(B):
            if not (case.valid[i, k] and case.positive[i, k]):
                continue
            every = np.array([SCALE * (cosines[i, k] - options.get("margin", 0.0)), *logits])
            target = np.zeros(len(every))
            target[0] = 1
            near = [0, *(place + 1 for place, column in enumerate(columns) if column < B)]
            if "soft" in options and len(near) > 1:
                mass = np.exp(case.near[i, [columns[place - 1] for place in near[1:]]].astype(float))
                target[0] -= options["soft"]
                target[near[1:]] += options["soft"] * mass / mass.sum()
            if "momentum" in options:
                mass = np.exp(case.far[i, [k, *columns]].astype(float))
                target[0] -= options["momentum"]
                target += options["momentum"] * mass / mass.sum()
            assert target.sum() == pytest.approx(1)
            each.append(-target @ (every - np.log(np.exp(every).sum())))
        if each:
            losses[i], has[i] = np.mean(each), True
    return losses, has


@KINDS
def test_rows_equal_the_reference(kind):
    for seed in range(4):
        case = make_case(seed)
        losses, has = OURS[kind](case)
        expected, expected_has = reference(kind, case)
        np.testing.assert_allclose(losses, expected, rtol=2e-5, atol=1e-5)
        np.testing.assert_array_equal(has, expected_has)
        assert losses[1] == 0


@KINDS
def test_a_masked_column_changes_nothing_and_guides_and_masks_take_no_gradient(kind):
    case = make_case(5)

    def total(left: Any, right: Any, extra: Any, near: Any, far: Any, base: Case) -> Any:
        now = base._replace(left=left, right=right, extra=extra, near=near, far=far)
        return (OURS[kind](now)[0] * WEIGHTS).sum()

    run = jax.value_and_grad(total, argnums=(0, 1, 2, 3, 4))
    value, gradients = run(case.left, case.right, case.extra, case.near, case.far, case)
    assert not np.any(gradients[0][1])
    assert not np.any(gradients[1][4])
    assert not np.any(gradients[2][~case.extra_valid])
    assert not np.any(gradients[3])
    assert not np.any(gradients[4])
    left, right, extra, near, far = (x.copy() for x in (case.left, case.right, case.extra, case.near, case.far))
    left[1], right[4] = units(77)[0], units(78)[0]
    extra[~case.extra_valid] = 50
    near[:, 4], far[:, 4], far[:, B:][~case.extra_valid] = 9, -9, 9
    again, others = run(left, right, extra, near, far, case._replace(positive=case.positive ^ ~case.valid))
    assert value == again
    for one, other in zip(gradients, others, strict=True):
        np.testing.assert_array_equal(one, other)


@KINDS
def test_gradient_equals_finite_differences_of_the_reference(kind):
    case = make_case(3)

    def total(left: Any, right: Any) -> Any:
        return (OURS[kind](case._replace(left=left, right=right))[0] * WEIGHTS).sum()

    expected = differences(
        lambda left, right: float(reference(kind, case._replace(left=left, right=right))[0] @ WEIGHTS),
        case.left,
        case.right,
    )
    for ours, theirs in zip(jax.grad(total, argnums=(0, 1))(case.left, case.right), expected, strict=True):
        assert np.abs(theirs).max() > 1
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-4)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 1000), order=st.permutations(range(B)), present=st.lists(st.booleans(), min_size=B, max_size=B)
)
def test_permuting_the_batch_permutes_the_rows(seed, order, present):
    case, order = make_case(seed), np.array(order)
    case = case._replace(valid=np.array(present)[:, None] & np.array(present)[None, :])
    losses, has = OURS["all"](case)
    assert np.isfinite(losses).all()
    assert (losses >= 0).all()
    square, wide = np.ix_(order, order), np.ix_(order, [*order, *range(B, B + C)])
    moved, moved_has = OURS["all"](
        Case(
            case.left[order],
            case.right[order],
            case.positive[square],
            case.valid[square],
            case.extra[order],
            case.extra_valid[order],
            case.near[square],
            case.far[wide],
        )
    )
    np.testing.assert_allclose(moved, losses[order], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(moved_has, has[order])


def test_a_row_without_negatives_keeps_its_plain_target():
    case = make_case(0)
    case = case._replace(positive=np.ones((B, B), bool), extra_valid=np.zeros((B, C), bool))
    losses, _ = OURS["all"](case)
    np.testing.assert_array_equal(losses, 0)
    gradient = jax.grad(lambda left: OURS["all"](case._replace(left=left))[0].sum())(case.left)
    np.testing.assert_array_equal(gradient, 0)

"""What the masked losses hide: rates, whole words, the 80/10/10, and the same draw wherever it is made."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding

from maxsearch.losses.masking import choose_patches, choose_words, corrupt, patch_slots, slots_of, word_slots
from maxsearch.mesh import spec
from tests.small import set_mesh

pytestmark = pytest.mark.usefixtures("one_device", "quick_compile")

RATE = 0.25
CHOOSE = jax.jit(choose_words, static_argnames="rate")


def rows(count: int, tokens: int, longest: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Word numbers and mask of rows whose words have 1 to `longest` tokens; the last quarter is padding."""
    rng = np.random.default_rng(seed)
    word = np.stack([np.repeat(np.arange(tokens), rng.integers(1, longest + 1, tokens))[:tokens] for _ in range(count)])
    mask = np.broadcast_to(np.arange(tokens) < tokens * 3 // 4, word.shape)
    return np.where(mask, word, -1).astype(np.int32), mask


def chosen(word: np.ndarray, mask: np.ndarray, rate: float = RATE, seed: int = 0) -> np.ndarray:
    return np.asarray(CHOOSE(jax.random.key(seed), word, mask, rate=rate))


@pytest.mark.parametrize("longest", [1, 2])
def test_the_share_of_masked_tokens_is_the_rate(longest):
    word, mask = rows(4000, 32, longest)
    assert chosen(word, mask).sum() / mask.sum() == pytest.approx(RATE, abs=0.003)


def test_every_word_is_as_likely_and_a_text_of_one_word_is_always_masked():
    word, mask = rows(8000, 8, 1)
    share = chosen(word, mask).mean(axis=0)
    np.testing.assert_allclose(share[:6], RATE, atol=0.02)
    np.testing.assert_array_equal(share[6:], 0)
    single = np.full((50, 8), -1, np.int32)
    single[:, 0] = 0
    np.testing.assert_array_equal(chosen(single, single >= 0), single >= 0)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_words_are_masked_whole_within_the_slots_and_never_special_tokens_or_padding(seed):
    word, mask = rows(32, 16, 4, seed)
    mask = mask.copy()
    mask[0] = False
    word[:, 0] = -1  # such as [CLS]
    found = chosen(word, mask, seed=seed)
    assert not found[~mask | (word < 0)].any()
    assert (found.sum(axis=1) <= word_slots(16, RATE)).all()
    for numbers, real, masked in zip(word, mask, found, strict=True):
        for number in set(numbers[masked]):
            assert masked[(numbers == number) & real].all()
        lengths = [((numbers == number) & real).sum() for number in set(numbers[real & (numbers >= 0)])]
        assert masked.any() or not lengths or max(lengths) > word_slots(16, RATE)


def test_a_word_that_no_row_of_slots_holds_stays():
    long, mask = np.zeros((4, 16), np.int32), np.ones((4, 16), bool)
    assert not chosen(long, mask).any()
    assert word_slots(16, RATE) == 6
    assert word_slots(2, RATE) == 2


def test_slots_pick_the_masked_tokens_in_order():
    mask = np.array([[False, True, False, True], [False] * 4, [True, False, False, False]])
    picked = np.asarray(slots_of(jnp.asarray(mask), 3))
    assert [row.argmax(axis=1)[row.any(axis=1)].tolist() for row in picked] == [[1, 3], [], [0]]
    assert picked.sum() == 3


def test_of_the_masked_tokens_eighty_ten_ten_percent_are_hidden_replaced_and_kept():
    rng = np.random.default_rng(0)
    mask = np.arange(16) < rng.integers(1, 17, 3000)[:, None]
    ids = np.where(mask, rng.choice([7, 8, 9, 11], mask.shape, p=[0.4, 0.3, 0.2, 0.1]), 0).astype(np.int32)
    picked = mask & (rng.random(mask.shape) < 0.5)
    read, hidden = map(np.asarray, jax.jit(corrupt)(jax.random.key(0), picked, ids, mask))
    assert not hidden[~picked].any()
    np.testing.assert_array_equal(read[~picked | hidden], ids[~picked | hidden])
    assert hidden[picked].mean() == pytest.approx(0.8, abs=0.01)
    # A tenth is replaced by a token drawn as often as it stands in the batch: padding never, the same one sometimes.
    assert set(np.unique(read[picked])) == {7, 8, 9, 11}
    changed = picked & (read != ids)
    same = sum(share**2 for share in (0.4, 0.3, 0.2, 0.1))
    assert changed.sum() / picked.sum() == pytest.approx(0.1 * (1 - same), abs=0.01)


def test_patches_are_drawn_in_their_number_without_repetition_and_each_as_likely():
    picked = np.asarray(jax.jit(choose_patches, static_argnums=(1, 2, 3))(jax.random.key(0), 4000, 10, 0.3))
    assert picked.shape == (4000, patch_slots(10, 0.3), 10) == (4000, 3, 10)
    np.testing.assert_array_equal(picked.sum(axis=2), 1)
    assert picked.sum(axis=1).max() == 1
    np.testing.assert_allclose(picked.mean(axis=0), 0.1, atol=0.02)  # in each slot, too
    assert patch_slots(4, 0.01) == 1


def test_the_same_key_draws_the_same_on_every_mesh_and_another_key_draws_another():
    word, mask = rows(16, 12, 2)
    ids = np.where(mask, word + 5, 0).astype(np.int32)

    def draw(layout: tuple[int, int, int], seed: int) -> list[np.ndarray]:
        with set_mesh(*layout):
            split = NamedSharding(jax.sharding.get_mesh(), spec("batch", None))

            def run(word, mask, ids):
                keys = jax.random.split(jax.random.key(seed), 3)
                found = choose_words(keys[0], word, mask, RATE)
                return found, *corrupt(keys[1], found, ids, mask), choose_patches(keys[2], 16, 6, 0.5)

            arrays = jax.jit(run)(*(jax.device_put(x, split) for x in (word, mask, ids)))
            return [np.asarray(x) for x in arrays]

    expected = draw((1, 1, 1), 0)
    for layout in [(8, 1, 1), (2, 2, 2)]:
        for ours, theirs in zip(draw(layout, 0), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert any((ours != theirs).any() for ours, theirs in zip(draw((1, 1, 1), 1), expected, strict=True))

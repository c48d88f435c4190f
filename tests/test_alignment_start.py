"""The aligner's start: clouds that are turns of one another are found, and parameters get the map."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx

from maxsearch.config import AlignConfig
from maxsearch.errors import UsageError
from maxsearch.training.alignment import aligned_params, clustered, csls, refined, start_map
from maxsearch.training.state import model_graph
from tests.small import CONFIG, lively_params, make_batch, on_mesh, set_mesh, with_model

WIDTH, WORD_WIDTH = 10, 14


def clouds(points: int, noise: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, the same turned into a wider space and shuffled, and the turn."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(9, WIDTH)) * rng.uniform(1, 3, (9, 1))
    x = centres[rng.choice(9, points, p=rng.dirichlet(np.full(9, 3.0)))] + rng.normal(size=(points, WIDTH)) * 0.6
    turn = np.linalg.qr(rng.normal(size=(WORD_WIDTH, WIDTH)))[0].T
    y = x @ turn + 5 + noise * rng.normal(size=(points, WORD_WIDTH))
    return x, y[rng.permutation(points)], turn


@pytest.mark.parametrize(("kind", "noise"), [("unsupervised", 0.0), ("refined", 0.05)])
def test_a_known_turn_is_recovered_without_pairs(kind, noise):
    x, y, turn = clouds(120, noise)
    found = start_map(x, y, kind, 0)
    np.testing.assert_allclose(found @ found.T, np.eye(WIDTH), atol=1e-9)
    assert np.trace(found @ turn.T) / WIDTH > 0.995
    np.testing.assert_array_equal(found, start_map(x, y, kind, 0))


def test_refinement_mends_a_map_that_is_somewhat_off():
    x, y, turn = clouds(200, 0.05)
    x, y = (z - z.mean(axis=0) for z in (x, y))
    x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
    rng = np.random.default_rng(1)
    left, _, right = np.linalg.svd(turn + 0.12 * rng.normal(size=turn.shape), full_matrices=False)
    off = left @ right
    assert np.trace(off @ turn.T) / WIDTH < 0.97
    assert np.trace(refined(off, x, y) @ turn.T) / WIDTH > 0.995


def test_wider_patches_than_words_and_many_points_give_a_semi_orthogonal_map():
    rng = np.random.default_rng(0)
    found = start_map(rng.normal(size=(700, 12)), rng.normal(size=(40, 6)), "refined", 3)
    assert found.shape == (12, 6)
    np.testing.assert_allclose(found.T @ found, np.eye(6), atol=1e-9)
    centres, mass = clustered(rng.normal(size=(700, 12)), 16, 3)
    assert mass.sum() == pytest.approx(1)
    assert len(centres) == len(mass) <= 16


def test_csls_takes_from_hubs():
    cosines = np.array([[0.9, 0.8, 0.1], [0.9, 0.2, 0.1]])
    expected = 2 * cosines - np.array([[0.85], [0.55]]) - np.array([[0.9, 0.5, 0.1]])
    np.testing.assert_allclose(csls(cosines, 2), expected)


def test_too_few_points_say_what_to_do():
    with pytest.raises(UsageError, match="at least 2 patches and 2 words, not 1 and 5"):
        start_map(np.ones((1, 4)), np.ones((5, 4)), "unsupervised", 0)


@pytest.mark.usefixtures("quick_compile")
def test_parameters_get_the_map_on_every_layout_and_everything_else_stays():
    words = tuple((i + 5, i + 7) for i in range(20))
    config = with_model(CONFIG, keywords=20, align=AlignConfig(visual_words=2))

    def found(layout):
        with set_mesh(*layout):
            params, graph = lively_params(config), model_graph(config, words)
            batches = (on_mesh(make_batch(config, seed)) for seed in range(3))
            after = aligned_params(params, graph, batches, "refined", 0)
            model = nnx.merge(graph, after)
            vocabulary = model.aligner.vocabulary(model.title_encoder)
            return jax.device_get((params, after, vocabulary))

    before, after, vocabulary = found((1, 1, 1))
    kernel = after["aligner"]["project"]["kernel"]
    assert kernel.dtype == np.float32
    scale = np.square(kernel).sum() / 16
    np.testing.assert_allclose(kernel @ kernel.T, scale * np.eye(16), atol=1e-4 * scale)
    rest = {**after, "aligner": {**after["aligner"], "project": before["aligner"]["project"]}}
    jax.tree.map(np.testing.assert_array_equal, rest, before)
    assert np.isfinite(after["aligner"]["project"]["bias"]).all()
    assert np.abs(after["aligner"]["project"]["bias"]).max() < 10 * np.abs(vocabulary).max()
    other = found((2, 2, 2))[1]["aligner"]["project"]["kernel"]
    assert other.shape == kernel.shape


@pytest.mark.usefixtures("one_device")
def test_a_model_without_an_aligner_or_data_without_pictures_are_refused():
    with pytest.raises(UsageError, match="no aligner"):
        aligned_params(lively_params(CONFIG), model_graph(CONFIG), [], "refined", 0)
    config = replace(with_model(CONFIG, keywords=2), loss=replace(CONFIG.loss, align_bag=1.0))
    batch = make_batch(config)
    batch["image_present"][:] = False
    with pytest.raises(UsageError, match="no picture"):
        aligned_params(lively_params(config), model_graph(config, ((5,), (6,))), [on_mesh(batch)], "refined", 0)

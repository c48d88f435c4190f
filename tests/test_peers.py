"""The PyTorch twin of benchmarks/peers: the same parameters, vectors, loss, gradients and training as ours."""

from dataclasses import replace

import jax
import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the peers extra")
pytest.importorskip("open_clip", reason="needs the peers extra")

from benchmarks.peers.jax_step import JaxStep
from benchmarks.peers.parity import TOLERANCE, by_path, check_close, compare
from benchmarks.peers.settings import Options, comparable
from benchmarks.peers.torch_step import TorchStep
from benchmarks.peers.weights import Leaf, check_same_parameters, group_settings, twin_leaves
from maxsearch.config import Config, LossConfig
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.presets import load_preset
from tests.small import CONFIG, lively_params, make_batch, with_model

pytestmark = pytest.mark.usefixtures("one_device", "quick_compile")

BAG = replace(CONFIG.model.query, depth=0)
SMALL = replace(CONFIG, optim=replace(CONFIG.optim, warmup_steps=2, clip_norm=0.5))
WORDS = with_model(SMALL, image=replace(CONFIG.model.image, depth=0))
FLAT = with_model(WORDS, query=BAG, title=BAG, fusion=replace(CONFIG.model.fusion, depth=0))
CONV = with_model(SMALL, query=BAG, title=BAG, image=replace(CONFIG.model.image, stem="conv"), remat="full")
MARGIN = LossConfig(kind="am_softmax", title_product=0.3, image_product=0.2, pair_power=0.5)


@pytest.mark.parametrize(
    ("config", "block", "steps"),
    [(FLAT, "custom", 3), (WORDS, "custom", 0), (replace(CONV, loss=MARGIN), "default", 0)],
    ids=["three steps", "blocks on words", "convolutions, checkpointed default block, margin"],
)
def test_both_sides_compute_the_same(config: Config, block: str, steps: int):
    # Row 0 lacks its title and row 1 its image; products and variants repeat.
    config = comparable(config, remat=config.model.remat)
    trainer = JaxStep(config)
    count = sum(leaf.size for leaf in jax.tree.leaves(trainer.state.params))
    found = compare(trainer, config, make_batch(config), Options(block=block), steps)
    assert found["parameters"] == count
    assert all(found[name] <= tolerance for name, tolerance in TOLERANCE.items())


def leaves_of(config: Config) -> dict[str, Leaf]:
    return twin_leaves(by_path(lively_params(config)), config)


def test_a_model_with_another_parameter_is_refused():
    leaves = leaves_of(SMALL)
    shapes = {name: leaf.value.shape for name, leaf in leaves.items()}
    assert check_same_parameters(leaves, shapes) == sum(leaf.value.size for leaf in leaves.values())
    for odd in ({"further": (3,)}, {"title_null": (2,)}):
        with pytest.raises(MaxsearchError, match=next(iter(odd))):
            check_same_parameters(leaves, shapes | odd)


def test_a_difference_is_refused():
    check_close(TOLERANCE, "norm.weight")
    for name in TOLERANCE:
        with pytest.raises(MaxsearchError, match=name):
            check_close({name: float("nan")}, "norm.weight")


def test_a_gradient_that_is_not_finite_changes_nothing():
    leaves = leaves_of(SMALL)
    start = {name: leaf.value for name, leaf in leaves.items()}
    step = TorchStep(SMALL, start, group_settings(leaves, SMALL.optim))
    batch = make_batch(SMALL)
    assert np.isnan(step({**batch, "weight": np.full_like(batch["weight"], np.nan)}))
    assert all(np.array_equal(value.detach(), start[name]) for name, value in step.model.named_parameters())


def test_towers_are_cut_and_what_has_no_twin_is_refused():
    base = comparable(load_preset("base"), layers=6, batch_size=64)
    assert (base.model.query.depth, base.model.image.depth, base.model.fusion.depth) == (6, 6, 2)
    assert (base.model.dtype, base.model.remat, base.data.batch_size) == ("float32", "none", 64)
    with pytest.raises(UsageError, match="has no twin"):
        comparable(load_preset("methods/make"))

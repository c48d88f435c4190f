"""Runs that begin with the parameters of another run or of an exported model."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxsearch.data.keywords import Lexicon
from maxsearch.errors import UsageError
from maxsearch.mesh import make_mesh
from maxsearch.model_files import flatten_params
from maxsearch.training.checkpoint import Checkpoints
from maxsearch.training.origin import Origin, Taken, take, with_tokenizer
from maxsearch.training.run_folder import read_config
from maxsearch.training.state import TrainState
from tests import tiny


def averages(run: Path, step: int) -> dict[str, np.ndarray]:
    checkpoints = Checkpoints(run)
    mesh = make_mesh(read_config(run).mesh)
    with jax.set_mesh(mesh):
        params = checkpoints.averages(step, mesh)
    checkpoints.close()
    return flatten_params(params)


@pytest.fixture
def unmoved(monkeypatch: pytest.MonkeyPatch) -> None:
    """No step changes a parameter, so that a run ends as it began."""
    monkeypatch.setattr("maxsearch.training.step.apply_updates", lambda params, *_: params)


@pytest.mark.parametrize("origin", [tiny.run, tiny.model])
@pytest.mark.usefixtures("unmoved", "laptop")
def test_a_run_begins_with_anothers_averages_and_tokenizer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, origin: Callable[[], Path]
) -> None:
    monkeypatch.chdir(tmp_path)  # a path as it is typed, which checkpoints are not read by
    run, source = tmp_path / "run", Path(shutil.copytree(origin(), "origin"))
    words = (*tiny.train_words(run, "--seed", 5, "--steps", 1), "--init-from", source)
    capsys.readouterr()
    tiny.quiet(*words)
    expected, found = averages(tiny.run(), 10), averages(run, 1)
    assert f"beginning with {source}: {len(expected)} parameters taken\n" in capsys.readouterr().err
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6, err_msg=name)
    assert (run / "tokenizer/tokenizer.json").read_bytes() == (source / "tokenizer/tokenizer.json").read_bytes()
    told = json.loads((run / "origin.json").read_text())
    assert (told["from"], told["step"], told["new"], told["left"]) == (str(source.absolute()), 10, [], [])

    # The same command goes on without a look at what the run began with.
    shutil.rmtree(source)
    tiny.quiet(*words[:-3], 2, *words[-2:])
    assert [line["step"] for line in tiny.metrics(run)] == [1, 2]
    code, said = tiny.fails(capsys, *words[:-1], tmp_path / "other")
    assert (code, "data.tokenizer was " in said) == (2, True), said


def test_what_does_not_fit_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = tiny.train_words(tmp_path / "run", "--steps", 1, "--init-from")
    code, said = tiny.fails(capsys, *words, tiny.run(), "--model.vocab-size", 600)
    assert (code, said) == (
        2,
        f"maxsearch: --init-from {tiny.run()} has 512 embeddings of tokens and the new run 600: set "
        "--model.vocab-size 512",
    )
    code, said = tiny.fails(capsys, *words, tiny.run(), "--data.tokenizer", tiny.model() / "tokenizer")
    assert (code, said) == (
        2,
        f"maxsearch: --init-from {tiny.run()} brings its own tokenizer: leave --data.tokenizer out",
    )
    code, said = tiny.fails(capsys, *words, tiny.catalogue())
    assert (code, "name a run folder that `maxsearch train` wrote" in said) == (1, True), said
    assert not list((tmp_path / "run").glob("[!.]*"))


def state_of(params: dict[str, Any]) -> TrainState:
    params = jax.tree.map(jnp.asarray, params)
    return TrainState(jnp.int32(0), params, jax.tree.map(jnp.copy, params), None, jax.random.key(0))


HERE = {
    "encoder": {"kernel": np.zeros((2, 3)), "bias": np.zeros(3)},
    "fusion": {"kernel": np.zeros((4, 4))},
    "heads": {"keywords": {"kernel": np.zeros((3, 2))}},
    "logit_scale": np.zeros(()),
}


def test_names_and_shapes_decide() -> None:
    params = {"encoder/kernel": np.ones((2, 3)), "encoder/bias": np.ones(4), "aligner/kernel": np.ones((2, 2))}
    state, taken = take(Origin(Path("x"), 3, params, None), state_of(HERE), None)
    assert taken == Taken(
        taken=["encoder/kernel"],
        new=["encoder/bias", "fusion/kernel", "heads/keywords/kernel", "logit_scale"],
        left=["aligner/kernel", "encoder/bias"],
    )
    assert str(taken) == (
        "1 parameters taken, 4 new (encoder/bias, fusion/kernel, heads/keywords/kernel and 1 more), 2 left "
        "(aligner/kernel, encoder/bias)"
    )
    for tree in (state.params, state.ema):
        assert tree["encoder"]["kernel"].sum() == 6
        assert sum(x.sum() for x in jax.tree.leaves(tree)) == 6
    # Both are donated to the step, which takes no array twice.
    assert all(
        a.unsafe_buffer_pointer() != b.unsafe_buffer_pointer()
        for a, b in zip(*map(jax.tree.leaves, (state.params, state.ema)), strict=True)
    )


@pytest.mark.parametrize(("words", "fits"), [(("red", "shoe"), True), (("shoe", "red"), False), (None, False)])
def test_a_keyword_head_is_taken_with_its_keywords_only(words: tuple[str, ...] | None, fits: bool) -> None:
    params = {"heads/keywords/kernel": np.ones((3, 2)), "fusion/kernel": np.ones((4, 4))}
    origin = Origin(Path("x"), None, params, Lexicon(words) if words else None)
    _, taken = take(origin, state_of(HERE), Lexicon(("red", "shoe")))
    assert ("heads/keywords/kernel" in taken.taken) == fits


@pytest.mark.parametrize("params", [{}, {"logit_scale": np.ones(())}, {"encoder/kernel": np.ones((3, 2))}])
def test_an_origin_of_which_nothing_fits_is_refused(params: dict[str, np.ndarray]) -> None:
    with pytest.raises(UsageError, match="--init-from x holds no parameter of the new run's names and shapes: train"):
        take(Origin(Path("x"), None, params, None), state_of(HERE), None)


def test_the_tokenizer_is_named_in_the_config() -> None:
    config = with_tokenizer(tiny.config(), Path("a/run"))
    assert config.data.tokenizer == "a/run/tokenizer"
    assert with_tokenizer(config, Path("a/run")) == config
    with pytest.raises(UsageError, match="--init-from b brings its own tokenizer"):
        with_tokenizer(replace(config), Path("b"))

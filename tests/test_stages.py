"""Runs of several stages: where they begin, what passes from one to the next, and that they resume bit by bit."""

import functools
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxsearch.config import MeshConfig, OptimConfig, ParamGroup, Stage
from maxsearch.errors import UsageError
from maxsearch.mesh import make_mesh
from maxsearch.training import budget
from maxsearch.training.checkpoint import Checkpoints
from maxsearch.training.metrics import MetricWriter
from maxsearch.training.optim import average, check_groups
from maxsearch.training.run_folder import read_config
from maxsearch.training.stages import StagePlan, check_stages, next_stage, optimizer_of
from maxsearch.training.state import TrainState, abstract_state
from maxsearch.training.step import make_step
from tests import tiny
from tests.small import CONFIG, bits, lively_params, make_batch, on_mesh

STAGES = """
    from dataclasses import replace
    from maxsearch.config import ParamGroup, Stage

    model = replace(config.model, keywords=32, align=replace(config.model.align, visual_words=2))
    return replace(config, model=model, optim=replace(config.optim, warmup_steps=4), stages=(
        Stage("adapt", 10, weights={"query_product": 0.0, "title_image": 1.0},
              groups=(ParamGroup("^(fusion|aligner)/", lr=None),)),
        Stage("fuse", 10, weights={"query_title": 0.0, "query_image": 0.0}, learning_rate=1e-2,
              groups=(ParamGroup("_(encoder|project)/|^aligner/", lr=None),), start="refined"),
    ))
"""
BOUNDARY, STEPS = 3, 6


@functools.cache
def preset() -> Path:
    path = tiny.folder() / "staged.py"
    path.write_text(tiny.PRESET.replace("    return Config(", "    config = Config(") + STAGES)
    return path


def words(run: Path, *more: object) -> list[object]:
    return ["train", preset(), "--data", tiny.data(), "--run", run, "--steps", STEPS, *more]


@functools.cache
def trained() -> Path:
    tiny.quiet(*words(tiny.folder() / "staged", "--checkpoint-every", 1, "--train.keep-checkpoints", 9))
    return tiny.folder() / "staged"


@pytest.fixture
def whole(laptop: None) -> Path:
    """A run that nothing interrupts, with a checkpoint of each step; not to be changed."""
    return trained()


def state_at(run: Path, step: int) -> TrainState:
    """The state that a checkpoint holds."""
    config, mesh = read_config(run), make_mesh(MeshConfig(), jax.devices()[:1])
    checkpoints = Checkpoints(run)
    with jax.set_mesh(mesh):
        optimizer = optimizer_of(config, checkpoints.position(step)["stage"])
        state, _ = checkpoints.restore(step, abstract_state(config, optimizer), mesh)
    checkpoints.close()
    return state


def position_at(run: Path, step: int) -> dict[str, Any]:
    checkpoints = Checkpoints(run)
    position = checkpoints.position(step)
    checkpoints.close()
    return position


def test_each_stage_has_its_losses_and_its_schedule(whole: Path) -> None:
    lines = tiny.metrics(whole)
    assert [(line["step"], line["stage"]) for line in lines] == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2)]
    terms = [{name for name in line if name.startswith("loss/")} for line in lines]
    assert terms[:3] == [{"loss/query_title", "loss/query_image", "loss/title_image"}] * 3
    assert terms[3:] == [{"loss/query_product"}] * 3
    # Of three steps two warm up, half of the run's four, and the third is the peak.
    assert [line["learning_rate"] for line in lines] == pytest.approx([1.5e-3, 3e-3, 3e-3, 5e-3, 1e-2, 1e-2])
    assert [position_at(whole, step)["stage"] for step in range(1, 7)] == [0, 0, 0, 1, 1, 1]
    assert position_at(whole, 4)["stage_start"] == BOUNDARY


def test_what_is_frozen_stays_and_the_next_stage_begins_with_the_averages(whole: Path) -> None:
    first, end, begun, last = (state_at(whole, step) for step in (1, BOUNDARY, BOUNDARY + 1, STEPS))
    frozen = {name for name in end.params if name.endswith(("_encoder", "_project"))}
    assert len(frozen) == 6
    for name in frozen:
        assert bits(end.params[name]) != bits(end.ema[name])  # the average lags behind
        for state in (begun, last):
            assert bits(state.params[name]) == bits(state.ema[name]) == bits(end.ema[name])
    assert bits(first.params["fusion"]) == bits(end.params["fusion"]) == bits(end.ema["fusion"])
    assert bits(begun.params["fusion"]) != bits(end.params["fusion"])
    # The aligner kept its first map, then got one that turns patches into words: orthogonal but for its scale.
    aligner = [state.params["aligner"]["project"] for state in (first, end, begun, last)]
    assert bits(aligner[0]) == bits(aligner[1]) != bits(aligner[2]) == bits(aligner[3])
    kernel = np.asarray(aligner[2]["kernel"])
    square = kernel.T @ kernel
    np.testing.assert_allclose(square, square[0, 0] * np.eye(len(square)), atol=1e-5 * square[0, 0])
    # Adam has forgotten: after one step its first moment is a tenth of one gradient, for what learns alone.
    adam = begun.moments.inner_state[1]
    assert adam.count == 1
    assert {path[0].key for path, _ in jax.tree.leaves_with_path(adam.mu)}.isdisjoint(frozen)


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """Runs a function once, when the numbers of a step are written."""
    write = MetricWriter.write

    def install(step: int, act: Callable[[], None]) -> None:
        def hooked(self: MetricWriter, number: int, values: dict[str, float]) -> None:
            write(self, number, values)
            if number == step:
                monkeypatch.setattr(MetricWriter, "write", write)
                act()

        monkeypatch.setattr(MetricWriter, "write", hooked)

    return install


@pytest.mark.parametrize("step", [BOUNDARY - 1, BOUNDARY, BOUNDARY + 1])
def test_a_run_stopped_before_at_and_after_a_boundary_goes_on_bit_by_bit(
    tmp_path: Path, whole: Path, at_step: Any, capsys: pytest.CaptureFixture[str], step: int
) -> None:
    run = tmp_path / "run"
    at_step(step, lambda: os.kill(os.getpid(), signal.SIGTERM))
    tiny.quiet(*words(run, "--checkpoint-every", 1))
    assert capsys.readouterr().out.startswith(f"stopped at step {step}, checkpoint saved")
    tiny.quiet(*words(run, "--checkpoint-every", 2))
    said = capsys.readouterr().err
    assert f"resuming at step {step}" in said
    assert ("stage 1 of 2, adapt: compiling" in said) == (step < BOUNDARY)
    assert "stage 2 of 2, fuse: compiling" in said
    assert tiny.metrics(run) == tiny.metrics(whole)
    assert bits(state_at(run, STEPS)) == bits(state_at(whole, STEPS))


class Killed(BaseException):
    """Ends a process without a word."""


def test_a_run_killed_beyond_a_boundary_goes_over_it_again(tmp_path: Path, whole: Path, at_step: Any) -> None:
    def die() -> None:
        raise Killed

    at_step(BOUNDARY + 2, die)
    with pytest.raises(Killed):
        tiny.quiet(*words(tmp_path / "run", "--checkpoint-every", BOUNDARY))
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == [str(BOUNDARY)]
    tiny.quiet(*words(tmp_path / "run", "--checkpoint-every", BOUNDARY))
    assert tiny.metrics(tmp_path / "run") == tiny.metrics(whole)
    assert bits(state_at(tmp_path / "run", STEPS)) == bits(state_at(whole, STEPS))


def test_minutes_reach_every_stage_and_decide_a_boundary_once(
    tmp_path: Path, laptop: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock:
        """Every look takes a tenth of a second."""

        now = 0.0

        def monotonic(self) -> float:
            self.now += 0.1
            return self.now

    monkeypatch.setattr(budget, "time", Clock())
    more = ("--minutes", 0.3, "--train.steps", 100_000, "--checkpoint-every", 1000)
    tiny.quiet(*[word for word in words(tmp_path / "run") if word not in ("--steps", STEPS)], *more)
    lines = tiny.metrics(tmp_path / "run")
    stages = [line["stage"] for line in lines]
    assert stages == sorted(stages)
    assert stages.count(1) == pytest.approx(stages.count(2), abs=6)
    for stage, peak in ((1, 3e-3), (2, 1e-2)):
        rates = [line["learning_rate"] for line in lines if line["stage"] == stage]
        assert max(rates) > 0.9 * peak
        assert rates[-1] < 0.1 * peak
    assert position_at(tmp_path / "run", len(lines))["stage_start"] == stages.count(1)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (('Stage("adapt", 10', 'Stage("adapt", 20'), "stages.0.steps was 10 and is now 20"),
        (("1e-2", "2e-2"), "stages.1.learning_rate was 0.01 and is now 0.02"),
        (('Stage("adapt"', 'Stage("adopt"'), "stages.0.name was 'adapt' and is now 'adopt'"),
    ],
)
def test_stages_are_settings(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str], changes: tuple[str, str], told: str
) -> None:
    other = tmp_path / "other.py"
    other.write_text(preset().read_text().replace(*changes))
    before = (whole / "config.json").read_bytes()
    code, said = tiny.fails(capsys, "train", other, *words(whole)[2:])
    assert (code, told in said) == (2, True), said
    assert (whole / "config.json").read_bytes() == before


def test_stages_that_do_not_fit_give_one_sentence(
    tmp_path: Path, laptop: None, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(preset().read_text().replace("(fusion|aligner)", "(fusoin|alinger)"))
    code, said = tiny.fails(capsys, "train", wrong, *words(tmp_path / "run")[2:])
    assert code == 2
    assert said == (
        "maxsearch: stages: groups of adapt: pattern '^(fusoin|alinger)/' decides no parameter, check its spelling "
        "and its place"
    )
    code, said = tiny.fails(capsys, *words(tmp_path / "run", "--steps", 1))
    assert (code, said) == (2, "maxsearch: --steps 1 leaves the stage adapt without a step: give more")
    assert not (tmp_path / "run").exists()


TREE = {"encoder": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "head": {"kernel": jnp.ones((2, 2))}}
OPTIM = OptimConfig()


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        ((ParamGroup(".*", lr=None),), "stages: groups of align: every parameter is frozen, give some group an lr"),
        ((ParamGroup("haed", lr=None),), "stages: groups of align: pattern 'haed' decides no parameter, check its"),
        ((ParamGroup("head"), ParamGroup("head/kernel")), "pattern 'head/kernel' decides no parameter"),
    ],
)
def test_groups_of_a_stage_are_checked_by_its_name(groups: tuple[ParamGroup, ...], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        check_groups(TREE, OPTIM, (Stage("first", 1), Stage("align", 1, groups=groups)))


def test_a_stage_may_leave_nothing_to_the_groups_of_the_config() -> None:
    check_groups(TREE, OPTIM, (Stage("all", 1, groups=(ParamGroup("^encoder/", lr=None), ParamGroup("^head/"))),))


def test_a_start_without_an_aligner_is_refused() -> None:
    stages = (Stage("first", 1), Stage("align", 1, start="unsupervised"))
    with pytest.raises(UsageError, match="stages: align starts with an aligner's map and the model has no aligner"):
        check_stages(replace(CONFIG, stages=stages), TREE)


@given(
    shares=st.lists(st.integers(1, 50), min_size=1, max_size=5),
    steps=st.integers(5, 10_000),
)
def test_stages_keep_their_proportions(shares: list[int], steps: int) -> None:
    plan = StagePlan(tuple(map(str, range(len(shares)))), tuple(shares))
    ends, start = [], 0
    for stage in range(len(shares)):
        start = int(plan.end(stage, start, float(steps)))
        ends.append(start)
    assert ends[-1] == steps
    exact = np.cumsum(shares) / sum(shares) * steps
    np.testing.assert_allclose(ends, exact, atol=len(shares))


def test_a_stage_that_is_over_stays_over() -> None:
    plan = StagePlan(("a", "b", "c"), (1, 1, 2))
    assert plan.end(0, 0, 100.0) == 25
    # The pace has fallen by half since: the rest is shared as before, and what was done is done.
    assert plan.end(1, 25, 70.0) == 40
    assert plan.end(2, 40, 70.5) == 70.5


@pytest.mark.usefixtures("one_device", "quick_compile")
def test_a_stage_is_what_a_new_run_from_the_averages_would_be() -> None:
    small = replace(CONFIG, optim=replace(CONFIG.optim, warmup_steps=0, ema_decay=0.5))
    flat = {name: replace(getattr(small.model, name), depth=0) for name in ("query", "title", "fusion", "image")}
    small = replace(small, model=replace(small.model, **flat))
    late = replace(small, stages=(Stage("early", 7), Stage("late", 5, learning_rate=0.01)))
    alone = replace(late, stages=late.stages[1:])

    def state(params: Any, ema: Any, step: int, config: Any, stage: int) -> TrainState:
        moments = jax.jit(optimizer_of(config, stage).init)(params)
        return TrainState(jnp.int32(step), params, ema, moments, jax.random.key(1))

    ended = state(lively_params(small), lively_params(small, seed=1), 7, late, 0)
    begun = next_stage(ended, optimizer_of(late, 1))
    new = state(lively_params(small, seed=1), lively_params(small, seed=1), 0, alone, 0)
    batch = on_mesh(make_batch(small))
    one, other = make_step(late, optimizer_of(late, 1), stage=1), make_step(alone, optimizer_of(alone, 0))
    for _ in range(2):
        begun, told = one(begun, batch, jnp.float32(12), jnp.int32(7))
        new, expected = other(new, batch, jnp.float32(5), jnp.int32(0))
    assert begun.step == 9
    assert told.keys() == expected.keys()
    for name in told:
        np.testing.assert_array_equal(told[name], expected[name])
    assert bits((begun.params, begun.ema, begun.moments)) == bits((new.params, new.ema, new.moments))


def test_the_average_of_what_is_frozen_does_not_drift() -> None:
    values = {"encoder": jnp.asarray(np.random.default_rng(0).normal(size=1000), jnp.float32), "head": jnp.ones(2)}
    groups = (ParamGroup("encoder", lr=None), ParamGroup(".*"))
    mixed = average(values, {"encoder": values["encoder"], "head": 3 * values["head"]}, jnp.float32(0.9), groups)
    assert bits(mixed["encoder"]) == bits(values["encoder"])
    np.testing.assert_allclose(mixed["head"], 1.2, rtol=1e-6)

"""Stages of a run: where each begins and ends, and how the state passes from one to the next."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxsearch.config import Config, Stage
from maxsearch.errors import UsageError
from maxsearch.training.optim import check_groups, make_optimizer
from maxsearch.training.state import TrainState


@dataclass(frozen=True)
class StagePlan:
    """The lengths of a run's stages relative to one another; a run without stages is one stage.

    Attributes:
      names: of the stages, "" for a run without any.
      shares: of the steps, in any unit.
    """

    names: tuple[str, ...]
    shares: tuple[int, ...]

    @classmethod
    def of(cls, stages: tuple[Stage, ...]) -> "StagePlan":
        """The plan that a config's stages make."""
        if not stages:
            return cls(("",), (1,))
        return cls(tuple(stage.name for stage in stages), tuple(stage.steps for stage in stages))

    def end(self, stage: int, start: int, horizon: float) -> float:
        """The step at which a stage ends: its share of what the stages before it left.

        Args:
          stage: its number.
          start: the step at which it began.
          horizon: the step at which the run ends, as seen now. A run in minutes sees it anew at each step, so that the
            end moves until it is reached; what is over stays over.
        """
        if stage == len(self.shares) - 1:
            return horizon
        return float(start + round((horizon - start) * self.shares[stage] / sum(self.shares[stage:])))

    def check(self, steps: int) -> None:
        """Checks that a run of so many steps has one for each stage.

        Raises:
          UsageError: it does not.
        """
        start = 0
        for number, name in enumerate(self.names):
            end = int(self.end(number, start, float(steps)))
            if end == start:
                raise UsageError(f"--steps {steps} leaves the stage {name} without a step: give more")
            start = end


def check_stages(config: Config, params: Any) -> None:
    """Checks that the stages fit a model.

    Args:
      config: of the run.
      params: its parameters, or their shapes.

    Raises:
      UsageError: the groups do not fit (see `check_groups`), or an aligner's map is wanted and there is no aligner.
    """
    check_groups(params, config.optim, config.stages)
    for stage in config.stages:
        if stage.start and "aligner" not in params:
            raise UsageError(
                f"stages: {stage.name} starts with an aligner's map and the model has no aligner: give "
                "model.align.visual_words a number, or a stage a weight for align_bag"
            )


def optimizer_of(config: Config, stage: int) -> optax.GradientTransformation:
    """The optimizer of one stage; what its moments are made of depends on what is frozen there."""
    return make_optimizer(config.stage(stage).optim)


def next_stage(state: TrainState, optimizer: optax.GradientTransformation) -> TrainState:
    """The state with which the stage after this one begins.

    It is that of a new run that starts from the averaged parameters (ours): what is frozen from now on is then what
    training goes on with and what evaluation reads, and the average of it has nothing left to follow. Adam's moments
    are those of other losses and start anew, for what learns in this stage alone.

    Args:
      state: of the stage that ended; it is not to be used again.
      optimizer: of the stage that begins.
    """

    def begin(ema: Any) -> tuple[Any, Any]:
        return jax.tree.map(jnp.copy, ema), optimizer.init(ema)

    params, moments = jax.jit(begin)(state.ema)
    return replace(state, params=params, moments=moments)


def with_params(state: TrainState, params: Any) -> TrainState:
    """The state with other parameters, averaged ones too.

    Args:
      state: of the same structure and layout.
      params: arrays on any device or on the host.
    """

    def place(new: Any, old: jax.Array) -> jax.Array:
        return jax.device_put(jnp.array(new, old.dtype), old.sharding)

    return replace(
        state, params=jax.tree.map(place, params, state.params), ema=jax.tree.map(place, params, state.params)
    )

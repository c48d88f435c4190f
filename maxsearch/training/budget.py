"""How long a run goes on: a number of steps, or minutes on the clock."""

import time
from typing import Any

import jax

from maxsearch.config import TrainConfig
from maxsearch.distributed import from_leader, leads


class Budget:
    """Says where the learning-rate schedule ends, and when to stop.

    A budget of steps is exact and repeatable. A budget of minutes turns the measured pace into an expected number of
    steps, anew at every call, so that the schedule has run out when the time has.
    """

    RESERVE_SECONDS = 3.0  # for the last checkpoint

    def __init__(self, steps: int, minutes: float | None, *, spent: float = 0.0, horizon: float | None = None) -> None:
        """Starts the clock.

        Args:
          steps: how many steps to train, when `minutes` is None; else the first guess.
          minutes: how long to train, time spent before included.
          spent: seconds that earlier processes of this run trained.
          horizon: the last value of the process before, for a run in minutes.
        """
        self._steps, self._minutes = steps, minutes
        self._before = spent
        self._started = time.monotonic()
        self._horizon = float(steps) if minutes is None or horizon is None else horizon
        self._marks: list[tuple[int, float]] = []

    @property
    def spent(self) -> float:
        """Seconds trained, earlier processes included."""
        return self._before + time.monotonic() - self._started

    def horizon(self, step: int) -> float:
        """The step at which the schedule ends, seen from `step`."""
        if self._minutes is None:
            return self._horizon
        self._marks = [*self._marks[-50:], (step, self.spent)]
        first, last = self._marks[min(3, len(self._marks) - 1)], self._marks[-1]  # the first steps compile
        if last[0] - first[0] >= 5:
            pace = (last[1] - first[1]) / (last[0] - first[0])
            left = self._minutes * 60 - self.RESERVE_SECONDS - self.spent
            self._horizon = step + max(left, 0) / pace
        return self._horizon

    def forget_pace(self) -> None:
        """Measures the pace anew: from here on a step costs something else."""
        self._marks = []

    def over(self, step: int) -> bool:
        """Whether to stop before another step."""
        if self._minutes is None:
            return step >= self._steps
        return self.spent >= self._minutes * 60 - self.RESERVE_SECONDS


class SharedBudget(Budget):
    """A budget of minutes that several processes agree on: the leader's clock decides, every few steps."""

    def __init__(self, every: int, *arguments: Any, **options: Any) -> None:
        """`every` how many steps the leader is asked; the rest as for Budget."""
        super().__init__(*arguments, **options)
        self._every = every
        self._asked: int | None = None
        self._said: tuple[float, bool] = (self._horizon, False)

    def _ask(self, step: int) -> tuple[float, bool]:
        if self._asked is None or step - self._asked >= self._every:
            self._asked = step
            said: list[Any] = from_leader(lambda: [Budget.horizon(self, step), Budget.over(self, step)])
            self._said = float(said[0]), bool(said[1])
        elif leads():
            super().horizon(step)  # keeps the measure of the pace
        return self._said

    def horizon(self, step: int) -> float:
        """As the leader sees it."""
        return self._ask(step)[0]

    def over(self, step: int) -> bool:
        """As the leader sees it."""
        return self._ask(step)[1]


def make_budget(config: TrainConfig, minutes: float | None, *, spent: float, horizon: float | None) -> Budget:
    """The budget of this process; arguments as for Budget."""
    if minutes is None or jax.process_count() == 1:
        return Budget(config.steps, minutes, spent=spent, horizon=horizon)
    return SharedBudget(config.log_every, config.steps, minutes, spent=spent, horizon=horizon)

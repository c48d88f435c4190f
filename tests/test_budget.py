from types import SimpleNamespace

import pytest

from maxsearch.training import budget
from maxsearch.training.budget import Budget


class Clock:
    """Time that passes only when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(budget, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def walk(budget: Budget, clock: Clock, paces: list[float]) -> tuple[int, list[float]]:
    """Steps until the budget is spent; the paces are seconds per step, the last one lasting."""
    horizons = []
    step = 0
    while not budget.over(step):
        horizons.append(budget.horizon(step))
        clock.now += paces[min(step, len(paces) - 1)]
        step += 1
    return step, horizons


def test_steps_are_exact_whatever_the_clock_says(clock: Clock) -> None:
    steps, horizons = walk(Budget(7, None, spent=1e9, horizon=3.0), clock, [1e6])
    assert (steps, set(horizons)) == (7, {7.0})


def test_a_run_that_is_continued_counts_its_earlier_seconds(clock: Clock) -> None:
    resumed = Budget(10, 1.0, spent=50.0, horizon=99.0)
    clock.now += 4.0
    assert resumed.spent == 54.0
    assert resumed.horizon(20) == 99.0
    assert not resumed.over(20)
    clock.now += 3.0
    assert resumed.over(20)


@pytest.mark.parametrize(
    "paces",
    [
        pytest.param([0.5], id="even"),
        pytest.param([20.0, 0.5], id="slow compile"),
        pytest.param([20.0] + [0.5] * 40 + [0.25], id="faster halfway"),
        pytest.param([5.0] + [0.25] * 60 + [0.75], id="slower halfway"),
    ],
)
def test_minutes_end_in_time_with_a_schedule_that_has_run_out(clock: Clock, paces: list[float]) -> None:
    started = clock.now
    steps, horizons = walk(Budget(100_000, 1.0), clock, paces)
    assert 60 - Budget.RESERVE_SECONDS <= clock.now - started <= 60 - Budget.RESERVE_SECONDS + max(paces[1:] or paces)
    assert horizons[0] == 100_000
    # The schedule's end is met by the run's end within three steps.
    assert horizons[-1] == pytest.approx(steps, abs=3)


def test_less_time_than_the_last_checkpoint_needs_is_over_at_once(clock: Clock) -> None:
    assert Budget(100, Budget.RESERVE_SECONDS / 60).over(0)
    assert not Budget(100, Budget.RESERVE_SECONDS / 60 + 0.01).over(0)

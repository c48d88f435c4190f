"""One process's part of a run: step by step and stage by stage, until the budget is spent or a signal comes."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maxsearch.chips import chip_of
from maxsearch.config import Config
from maxsearch.data.layout import abstract_batch
from maxsearch.data.stream import Stream
from maxsearch.distributed import forward_interrupts, stops
from maxsearch.errors import MaxsearchError
from maxsearch.models.search import Words
from maxsearch.training.budget import Budget
from maxsearch.training.checkpoint import Checkpoints
from maxsearch.training.feed import Feed
from maxsearch.training.flops import model_flops
from maxsearch.training.goodput import Clock
from maxsearch.training.metrics import Display, MetricWriter
from maxsearch.training.optim import learning_size
from maxsearch.training.profile import Profile
from maxsearch.training.replicas import agree
from maxsearch.training.stages import StagePlan, next_stage, optimizer_of, with_params
from maxsearch.training.state import TrainState
from maxsearch.training.step import Step, make_step


@dataclass(frozen=True)
class TrainResult:
    """How training ended.

    Attributes:
      step: updates done, over all processes of the run.
      seconds: time spent on them.
      stopped: whether a signal ended it before its budget.
      resumed_from: the step it continued from, None for a new run.
    """

    step: int
    seconds: float
    stopped: bool
    resumed_from: int | None


Stop = Callable[[int], bool]  # whether to end before the step of this number


@contextmanager
def stopping() -> Iterator[Stop]:
    """Says whether a signal to end came: to this process, or to any of several, which then end at the same step.

    A second one acts as usual.
    """
    if jax.process_count() > 1:
        forward_interrupts()
        yield stops
        return
    with signalled() as received:
        yield lambda step: bool(received)


@contextmanager
def signalled() -> Iterator[list[int]]:
    """A list that a signal to end is put into; a second one acts as usual."""
    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)
        as_before()

    def as_before() -> None:
        for number, handler in old.items():
            signal.signal(number, handler)

    old = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        as_before()


@dataclass
class Run:
    """One process's part of a run, from its first step to its last.

    Attributes:
      config: of the whole run.
      words: the keywords, as for SearchModel.
      state: at `resumed_from`, or a fresh one.
      stream: at the same place.
      epochs: how much of the data a step draws.
      parts: what is logged of the datasets of a mixture after so many steps; None for a single one.
      align: gives parameters with the aligner's map found as `Stage.start` says.
      checkpoints, writer, display, budget: what their classes say; one of several processes writes.
      resumed_from: updates done by earlier processes; None for a new run.
      stage: number of the current stage.
      stage_start: updates done before it.
      profile: which steps the profiler watches.
      clock: what the process's time was spent on so far.
      earlier: what goodput.jsonl tells of the processes before.
    """

    config: Config
    words: Words
    state: TrainState
    stream: Stream
    epochs: float
    align: Callable[[str, Any], Any]
    checkpoints: Checkpoints
    writer: MetricWriter | None
    display: Display
    budget: Budget
    resumed_from: int | None
    parts: Callable[[int], dict[str, float]] | None = None
    stage: int = 0
    stage_start: int = 0
    profile: Profile | None = None
    clock: Clock = field(default_factory=Clock)
    earlier: Sequence[dict[str, Any]] = ()
    _plan: StagePlan = field(init=False)
    _feed: Feed = field(init=False)
    _last: int = field(init=False)
    _step: Step | None = None
    _flops: dict[tuple[int, ...], int] = field(default_factory=dict)
    _marked: tuple[int, float, float] | None = None
    _work: dict[int, tuple[int, int]] = field(default_factory=dict)  # FLOPs and token places of a row, by step
    _empty: float = 0.0

    def __post_init__(self) -> None:
        self._plan = StagePlan.of(self.config.stages)
        self._last = len(self._plan.names) - 1
        self._feed = Feed(self.stream, jax.sharding.get_mesh())

    def go(self, stop: Stop) -> TrainResult:
        """Steps until the budget is spent or it is told to stop."""
        step, every = self.resumed_from or 0, self.config.train
        self.clock.add("start", self.clock.wall)
        behind: tuple[int, dict[str, jax.Array], float] | None = None
        if self.resumed_from is not None:
            self.display.say(f"resuming at step {step}")
        elif not self.budget.over(step):
            self._find_map()

        stopped = False
        while not self.budget.over(step) and not (stopped := stop(step)):
            horizon = self.budget.horizon(step)
            # A stage begins just before its first step: a checkpoint at the boundary holds the end of the one before.
            if self.stage < self._last and step >= max(self._end(horizon), self.stage_start + 1):
                if behind:
                    self._report(*behind)
                    behind = None
                self._begin(self.stage + 1, step)
            end, start = jnp.float32(self._end(horizon)), jnp.int32(self.stage_start)
            batch = self._feed.take()
            shape = (batch["query_ids"].shape[1], batch["title_ids"].shape[1])
            if self.profile is not None:
                self.profile.before(step)
            if self._step and shape in self._flops:
                self.state, metrics = self._step(self.state, batch, end, start)
            else:
                if behind:
                    self._report(*behind)
                    behind = None
                with self.clock.spent_on("compile"):
                    self.state, metrics = self._compile(shape)(self.state, batch, end, start)
                if len(self._flops) > 1:
                    self.budget.forget_pace()
                    self.display.forget_pace()
                    self._marked = None
            if not self._marked:
                self._mark(step)  # the time that compiling took is not the pace of training
            self._work[step + 1] = (self._flops[shape], sum(shape))
            if not self.budget.over(step + 1):
                self._feed.fetch()
            # The numbers of the step before are read only now that the device has its next work.
            if behind:
                self._report(*behind)
            step += 1
            behind = (step, metrics, horizon)
            if self.profile is not None:
                self.profile.after(step, metrics)
            if every.check_replicas and step % every.check_replicas == 0:
                self._compare_replicas(step)
            self.display.advance(step, horizon)
            if step % every.checkpoint_every == 0:
                self._report(*behind)
                behind = None
                self._save(step, horizon)
        if behind:
            self._report(*behind, last=True)
        self._save(step, self.budget.horizon(step))
        with self.clock.spent_on("checkpoint"):
            self.checkpoints.wait()
        early = not self.budget.over(step)
        if not early and self.stage < self._last:
            self.display.say(f"the time was over in {self._name()}: give more --minutes for those after it")
        return TrainResult(step, self.budget.spent, stopped and early, self.resumed_from)

    def _end(self, horizon: float) -> float:
        return self._plan.end(self.stage, self.stage_start, horizon)

    def _begin(self, stage: int, step: int) -> None:
        """Goes over to another stage."""
        self.stage, self.stage_start = stage, step
        self.state = next_stage(self.state, optimizer_of(self.config, stage))
        self.budget.forget_pace()
        self.display.forget_pace()
        self._marked = self._step = None
        self._flops = {}
        self._find_map()

    def _find_map(self) -> None:
        if self.config.stages and (start := self.config.stages[self.stage].start):
            self.display.say(f"{self._name()}: finding the aligner's map, {start}")
            with self.clock.spent_on("align"):
                self.state = with_params(self.state, self.align(start, self.state.ema))

    def _compile(self, shape: tuple[int, ...]) -> Step:
        """The stage's step, which compiles when it is first called with texts of so many places."""
        self._flops[shape] = self._count(shape)
        if self._step:
            return self._step
        self._step = make_step(self.config, optimizer_of(self.config, self.stage), self.words, self.stage)
        parameters = sum(x.size for x in jax.tree.leaves(self.state.params))
        learning = learning_size(self.state.params, self.config.stage(self.stage).optim.groups)
        devices = jax.sharding.get_mesh().size
        self.display.say(
            (f"{self._name()}: " if self.config.stages else "")
            + f"compiling the step: {parameters:,} parameters "
            + (f"({learning:,} learn) " if learning < parameters else "")
            + ("on one device" if devices == 1 else f"on {devices} devices")
        )
        return self._step

    def _count(self, shape: tuple[int, ...]) -> int:
        """Model FLOPs of a step whose texts have so many places, where a chip's peak is known to set them against."""
        mesh = jax.sharding.get_mesh()
        if chip_of(mesh.devices.flat[0]) is None:
            return 0
        config = self.config.stage(self.stage)
        params = jax.eval_shape(lambda params: params, self.state.params)
        return model_flops(config, params, abstract_batch(config, mesh, shape), self.words)

    def _compare_replicas(self, step: int) -> None:
        if not bool(np.asarray(agree(self.state.params))):
            raise MaxsearchError(
                f"after step {step} the replicas hold different parameters: a device stored or computed wrong; find it "
                "(its checksum is the odd one), leave it out, and repeat the command to go on from the last checkpoint"
            )

    def _name(self) -> str:
        return f"stage {self.stage + 1} of {len(self._plan.names)}, {self._plan.names[self.stage]}"

    def _save(self, step: int, horizon: float) -> None:
        position = {
            "stream": self._feed.state(),
            "seconds": self.budget.spent,
            "horizon": horizon,
            "stage": self.stage,
            "stage_start": self.stage_start,
        }
        with self.clock.spent_on("checkpoint"):
            self.checkpoints.save(step, self.state, position)
        if self.writer:
            line = self.clock.line(self.resumed_from or 0, step, self.stream.wait_seconds)
            self.writer.goodput([*self.earlier, line])

    def _mark(self, step: int) -> None:
        self._marked = (step, time.monotonic(), self.stream.wait_seconds)

    def _report(self, step: int, metrics: dict[str, jax.Array], horizon: float, *, last: bool = False) -> None:
        if not bool(metrics["finite"]):
            self._refuse(step, metrics)
        self._empty += float(metrics["padding"]) * self._work[step][1]
        if step % self.config.train.log_every and not last:
            return
        marked_step, marked_time, marked_wait = self._marked or (step, time.monotonic(), self.stream.wait_seconds)
        seconds = max(time.monotonic() - marked_time, 1e-9)
        values = {name: float(np.asarray(value)) for name, value in metrics.items() if name != "finite"}
        since = [work for done, work in self._work.items() if done <= step]
        values["padding"] = self._empty / sum(places for _, places in since)  # of all steps since the last line
        values |= {
            "examples_per_second": (step - marked_step) * self.config.data.batch_size / seconds,
            "data_wait": (self.stream.wait_seconds - marked_wait) / seconds,
            "epoch": step * self.epochs,  # the stream may be further
            **{reason: float(count) for reason, count in self._feed.faults.items()},
            "seconds": self.budget.spent,
        }
        if self.parts is not None:
            values |= self.parts(step)
        if self.config.stages:
            values["stage"] = float(self.stage + 1)
        if work := sum(flops for done, (flops, _) in self._work.items() if marked_step < done <= step):
            devices = jax.sharding.get_mesh().devices
            chip = chip_of(devices.flat[0])
            rate = work / seconds
            values["model_tflops_per_second"] = rate / 1e12
            if chip is not None:
                values["mfu"] = rate * chip.devices / (chip.peak * devices.size)
        self._mark(step)
        self._empty = 0.0
        self._work = {done: work for done, work in self._work.items() if done > step}
        if self.writer:
            self.writer.write(step, values)
        self.display.show(step, horizon, values, self._plan.names[self.stage])

    def _refuse(self, step: int, metrics: dict[str, jax.Array]) -> None:
        saved = self.checkpoints.latest
        back = f"the last checkpoint is step {saved}" if saved is not None else "no checkpoint was saved yet"
        raise MaxsearchError(
            f"at step {step} the loss is {float(metrics['loss'])} and the gradient norm "
            f"{float(metrics['gradient_norm'])}, so the update was not made; {back}: begin a new run with a lower "
            "--optim.learning-rate or --optim.clip-norm, or look for extreme weights in the data"
        )

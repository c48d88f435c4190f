"""Training from a prepared dataset to the last checkpoint: begins, resumes, stops on a signal."""

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maxsearch.config import Config
from maxsearch.data.dataset import PreparedDataset
from maxsearch.data.sources import CatalogueSource, ExampleSource
from maxsearch.data.stream import Stream, StreamOptions, make_stream
from maxsearch.data.tfds_source import TfdsSource
from maxsearch.data.tokenize import TextEncoder
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.mesh import make_mesh, put_batch, spec_size
from maxsearch.training.budget import Budget
from maxsearch.training.checkpoint import Checkpoints
from maxsearch.training.metrics import Display, MetricWriter
from maxsearch.training.optim import check_groups, make_optimizer
from maxsearch.training.run_folder import alone, require_run_folder, settle_config, settle_tokenizer
from maxsearch.training.state import TrainState, abstract_state, init_state
from maxsearch.training.step import make_step


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


def open_source(data: str, config: Config) -> tuple[ExampleSource, Config]:
    """The source of examples, and the config with what the data decide filled in.

    Args:
      data: a folder that `maxsearch prepare` wrote, or `tfds:NAME[:SPLIT]`.
      config: the run's config.

    Raises:
      MaxsearchError: the data cannot be read.
    """
    if data.startswith("tfds:"):
        source = TfdsSource(data, config.data.image_key, config.data.text_key, seed=config.seed)
        edge = config.data.image_edge or 2 * max(config.model.image.size)
        return source, replace(config, data=replace(config.data, image_edge=edge))
    dataset = PreparedDataset.open(Path(data))
    if not len(dataset.interactions):
        raise MaxsearchError(f"--data {data} holds no interactions to learn from: prepare it with --interactions")
    edge = dataset.manifest["image_edge"]
    if config.data.image_edge not in (0, edge):
        raise UsageError(
            f"--data.image-edge is {config.data.image_edge} and {data} was prepared with {edge}: leave the flag out"
        )
    config = replace(config, data=replace(config.data, image_edge=edge))
    return CatalogueSource(dataset, config.data.weight_power, config.seed), config


def open_stream(source: ExampleSource, tokenizer: Any, config: Config) -> Stream:
    """This process's part of the training stream."""
    return make_stream(
        source,
        TextEncoder(tokenizer, config.model.query.max_tokens),
        TextEncoder(tokenizer, config.model.title.max_tokens),
        config.model.image.size,
        StreamOptions(
            batch_size=config.data.batch_size,
            seed=config.seed,
            num_workers=config.data.workers,
            num_threads=config.data.threads,
            prefetch=config.data.prefetch,
            augment=config.data.augment,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            cache_images=config.data.cache_images_mb * 2**20,
        ),
    )


def train(config: Config, data: str, run: Path, *, minutes: float | None = None) -> TrainResult:
    """Trains, continuing what RUN holds.

    Args:
      config: the resolved config; `config.train.steps` bounds the run unless `minutes` does.
      data: a prepared dataset, or `tfds:NAME[:SPLIT]`.
      run: the run's folder.
      minutes: time for the whole run, earlier processes included.

    Returns:
      How it ended. SIGTERM and SIGINT save a checkpoint and end it early.

    Raises:
      UsageError: flags, config, data and run folder do not fit one another.
      MaxsearchError: the data cannot be read, or the loss stopped being finite.
    """
    started = time.monotonic()
    source, config = open_source(data, config)
    mesh = make_mesh(config.mesh)
    parts = spec_size(mesh, "batch")
    if config.data.batch_size % parts:
        raise UsageError(
            f"--data.batch-size {config.data.batch_size} must be a multiple of the {parts} batch shards of the mesh"
        )

    with jax.set_mesh(mesh), ExitStack() as cleanup:
        optimizer = make_optimizer(config.optim)
        abstract = abstract_state(config, optimizer)
        check_groups(abstract.params, config.optim.groups)
        require_run_folder(run)
        cleanup.enter_context(alone(run))
        settle_config(run, config)
        tokenizer = settle_tokenizer(run, config, source)
        stream = open_stream(source, tokenizer, config)
        cleanup.callback(stream.close)
        checkpoints = Checkpoints(run, config.train.keep_checkpoints, create=True)
        cleanup.callback(checkpoints.close)

        resumed_from = checkpoints.latest
        if resumed_from is None:
            state = init_state(config, optimizer)
            position: dict[str, Any] = {"seconds": 0.0, "horizon": None}
        else:
            state, position = checkpoints.restore(resumed_from, abstract, mesh)
            stream.restore(position["stream"])
        spent = position["seconds"] + time.monotonic() - started
        budget = Budget(config.train.steps, minutes, spent=spent, horizon=position["horizon"])
        if resumed_from is None and budget.over(0):
            raise UsageError(f"--minutes {minutes} are over before the first step, at {spent:.0f} s: give more")

        writer = MetricWriter(run, resumed_from or 0)
        cleanup.callback(writer.close)
        display = cleanup.enter_context(Display(resumed_from or 0))
        stop = cleanup.enter_context(stopping())
        epochs = config.data.batch_size / len(source)
        return Run(config, state, stream, epochs, checkpoints, writer, display, budget, resumed_from).go(stop)


@contextmanager
def stopping() -> Iterator[list[int]]:
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
    """One process's part of a run, from its first step to its last; a step draws `epochs` of the data."""

    config: Config
    state: TrainState
    stream: Stream
    epochs: float
    checkpoints: Checkpoints
    writer: MetricWriter
    display: Display
    budget: Budget
    resumed_from: int | None
    _marked: tuple[int, float, float] | None = None

    def go(self, stop: list[int]) -> TrainResult:
        """Steps until the budget is spent or a signal came."""
        mesh = jax.sharding.get_mesh()
        train_step = make_step(self.config, make_optimizer(self.config.optim))
        step, every = self.resumed_from or 0, self.config.train
        behind: tuple[int, dict[str, jax.Array], float] | None = None
        self._announce(step)

        while not stop and not self.budget.over(step):
            horizon = self.budget.horizon(step)
            batch = put_batch(next(self.stream), mesh)
            self.state, metrics = train_step(self.state, batch, jnp.float32(horizon))
            if not self._marked:
                self._mark(step)  # the time that compiling took is not the pace of training
            # The numbers of the step before are read only now that the device has its next work.
            if behind:
                self._report(*behind)
            step += 1
            behind = (step, metrics, horizon)
            self.display.advance(step, horizon)
            if step % every.checkpoint_every == 0:
                self._report(*behind)
                behind = None
                self._save(step, horizon)
        if behind:
            self._report(*behind, last=True)
        self._save(step, self.budget.horizon(step))
        self.checkpoints.wait()
        return TrainResult(step, self.budget.spent, bool(stop) and not self.budget.over(step), self.resumed_from)

    def _save(self, step: int, horizon: float) -> None:
        position = {"stream": self.stream.state(), "seconds": self.budget.spent, "horizon": horizon}
        self.checkpoints.save(step, self.state, position)

    def _announce(self, step: int) -> None:
        if self.resumed_from is not None:
            self.display.say(f"resuming at step {step}")
        if not self.budget.over(step):
            parameters = sum(x.size for x in jax.tree.leaves(self.state.params))
            devices = jax.sharding.get_mesh().size
            where = "one device" if devices == 1 else f"{devices} devices"
            self.display.say(f"compiling the step: {parameters:,} parameters on {where}")

    def _mark(self, step: int) -> None:
        self._marked = (step, time.monotonic(), self.stream.wait_seconds)

    def _report(self, step: int, metrics: dict[str, jax.Array], horizon: float, *, last: bool = False) -> None:
        if not bool(metrics["finite"]):
            self._refuse(step, metrics)
        if step % self.config.train.log_every and not last:
            return
        marked_step, marked_time, marked_wait = self._marked or (step, time.monotonic(), self.stream.wait_seconds)
        seconds = max(time.monotonic() - marked_time, 1e-9)
        values = {name: float(np.asarray(value)) for name, value in metrics.items() if name != "finite"}
        values |= {
            "examples_per_second": (step - marked_step) * self.config.data.batch_size / seconds,
            "data_wait": (self.stream.wait_seconds - marked_wait) / seconds,
            "epoch": step * self.epochs,  # the stream may be further
            "undecodable_images": float(self.stream.undecodable),
            "seconds": self.budget.spent,
        }
        self._mark(step)
        self.writer.write(step, values)
        self.display.show(step, horizon, values)

    def _refuse(self, step: int, metrics: dict[str, jax.Array]) -> None:
        saved = self.checkpoints.latest
        back = f"the last checkpoint is step {saved}" if saved is not None else "no checkpoint was saved yet"
        raise MaxsearchError(
            f"at step {step} the loss is {float(metrics['loss'])} and the gradient norm "
            f"{float(metrics['gradient_norm'])}, so the update was not made; {back}: begin a new run with a lower "
            "--optim.learning-rate or --optim.clip-norm, or look for extreme weights in the data"
        )

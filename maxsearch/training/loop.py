"""Training from a prepared dataset to the last checkpoint: opens what a run needs, begins it or resumes it."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from maxsearch.config import Config
from maxsearch.data.keywords import token_rows
from maxsearch.data.sources import ExampleSource
from maxsearch.data.stream import Stream
from maxsearch.data.tokenize import load_tokenizer
from maxsearch.data.tokens.encoder import table_for, table_of
from maxsearch.distributed import from_leader, leads
from maxsearch.errors import UsageError
from maxsearch.mesh import put_batch
from maxsearch.models.pretrained.load import load_towers, record_report
from maxsearch.models.search import Words
from maxsearch.training.alignment import aligned_params
from maxsearch.training.bucketing import read_buckets, settle_lengths, told
from maxsearch.training.budget import make_budget
from maxsearch.training.checkpoint import Checkpoints, has_checkpoint
from maxsearch.training.environment import note_process
from maxsearch.training.goodput import Clock, read_lines
from maxsearch.training.metrics import Display, MetricWriter
from maxsearch.training.mixing import progress_of
from maxsearch.training.opening import check, open_stream
from maxsearch.training.optim import path_name
from maxsearch.training.origin import read_origin, record, take
from maxsearch.training.profile import Profile
from maxsearch.training.run import Run, TrainResult, stopping
from maxsearch.training.run_folder import (
    PROFILE,
    TOKENIZER,
    alone,
    read_lexicon,
    record_data,
    settle_config,
    settle_lexicon,
    settle_tokenizer,
)
from maxsearch.training.stages import optimizer_of, with_params
from maxsearch.training.state import TrainState, abstract_state, init_state, model_graph

NEW: dict[str, Any] = {"seconds": 0.0, "horizon": None, "stage": 0, "stage_start": 0}  # the position where a run begins


def train(
    config: Config,
    data: str | Sequence[str],
    run: Path,
    *,
    minutes: float | None = None,
    init_from: Path | None = None,
    profile: str | None = None,
) -> TrainResult:
    """Trains, continuing what RUN holds.

    Args:
      config: the resolved config; `config.train.steps` bounds the run unless `minutes` does.
      data: a prepared dataset, or `tfds:NAME[:SPLIT]`; or several to mix, each as NAME=DATA, or called like its
        folder.
      run: the run's folder.
      minutes: time for the whole run, earlier processes included.
      init_from: a run or an exported model whose averaged parameters and tokenizer a new run begins with. A run that
        is continued does not read it again.
      profile: which steps the profiler watches, as 10:15.

    Returns:
      How it ended. SIGTERM and SIGINT save a checkpoint and end it early.

    Raises:
      UsageError: flags, config, data and run folder do not fit one another.
      MaxsearchError: the data cannot be read, or the loss stopped being finite.
    """
    started, clock = time.monotonic(), Clock()
    window = Profile.parse(profile, run / PROFILE) if profile else None
    source, config, mesh, abstract = check(config, data, run, minutes, init_from)

    with jax.set_mesh(mesh), ExitStack() as cleanup:
        from_leader(lambda: cleanup.enter_context(alone(run)))
        fresh = from_leader(lambda: not has_checkpoint(run))
        origin = read_origin(init_from, config, mesh) if init_from is not None and fresh else None
        from_leader(lambda: settle(run, config, source))
        from_leader(lambda: record_data(run, (data,) if isinstance(data, str) else data))
        tokenizer, lexicon = load_tokenizer(run / TOKENIZER), read_lexicon(run, config)
        buckets = read_buckets(run, config, source)
        stream = open_stream(source, tokenizer, config, lexicon, buckets)
        cleanup.callback(stream.close)
        checkpoints = Checkpoints(run, config.train.keep_checkpoints, create=True)
        cleanup.callback(checkpoints.close)

        resumed_from = from_leader(lambda: checkpoints.latest)
        display = cleanup.enter_context(Display(resumed_from or 0, silent=not leads()))
        if buckets is not None:
            display.say(told(buckets))
        if table_of(source) is not None and table_for(source, tokenizer) is None:
            display.say("the token ids in --data are of another tokenizer than the run's: texts are tokenised anew")
        if resumed_from is None:
            position = dict(NEW)
            state = init_state(config, optimizer_of(config, 0))
            if origin is not None:
                state, taken = take(origin, state, lexicon)
                if leads():
                    record(run, origin, taken)
                display.say(f"beginning with {init_from}: {taken}")
            else:
                state = begin_pretrained(config, state, run, display)
        else:
            position = checkpoints.position(resumed_from)
            abstract = abstract_state(config, optimizer_of(config, position["stage"]))
            state, _ = checkpoints.restore(resumed_from, abstract, mesh)
            stream.restore(position["stream"])
        spent = position["seconds"] + time.monotonic() - started
        if window:
            cleanup.callback(window.close)
        budget = make_budget(config.train, minutes, spent=spent, horizon=position["horizon"])
        if resumed_from is None and budget.over(0):
            raise UsageError(f"--minutes {minutes} are over before the first step, at {spent:.0f} s: give more")

        words = token_rows(lexicon, tokenizer, config.model.keywords) if lexicon else ()
        writer = MetricWriter(run, resumed_from or 0) if leads() else None
        if writer:
            note_process(run, resumed_from or 0, source.fingerprint)
            cleanup.callback(writer.close)
        return Run(
            config=config,
            words=words,
            state=state,
            stream=stream,
            epochs=config.data.batch_size / len(source),
            parts=progress_of(source, config.data.batch_size),
            align=map_finder(config, words, lambda calm: open_stream(source, tokenizer, calm, lexicon)),
            checkpoints=checkpoints,
            writer=writer,
            display=display,
            budget=budget,
            resumed_from=resumed_from,
            stage=position["stage"],
            stage_start=position["stage_start"],
            profile=window,
            clock=clock,
            earlier=read_lines(run) if leads() and resumed_from else (),
        ).go(cleanup.enter_context(stopping()))


def begin_pretrained(config: Config, state: TrainState, run: Path, display: Display) -> TrainState:
    """The state with the parameters that the sources of pretrained towers give; what they gave is said and recorded."""
    here = {path_name(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(state.params)}
    arrays, reports = load_towers(config, here)
    if not reports:
        return state
    for report in reports:
        display.say(str(report))
    if leads():
        record_report(run, reports)
    return with_params(
        state, jax.tree.map_with_path(lambda path, leaf: arrays.get(path_name(path), leaf), state.params)
    )


def settle(run: Path, config: Config, source: ExampleSource) -> None:
    """Writes what stands in the folder of a new run, or checks that the command continues the run that stands there."""
    settle_config(run, config)
    settle_tokenizer(run, config, source)
    settle_lexicon(run, config, source)
    settle_lengths(run, config, source)


def map_finder(config: Config, words: Words, open_calm: Callable[[Config], Stream]) -> Callable[[str, Any], Any]:
    """What finds the aligner's map: (`Stage.start`, parameters) -> parameters.

    Args:
      config: of the run.
      words: as for SearchModel.
      open_calm: opens the run's stream by a config. The map is found on its first batches whenever that happens, so
        that the stream of the run stays where it is, and a run that goes over a boundary again finds the same map.
    """

    def find(start: str, params: Any) -> Any:
        mesh = jax.sharding.get_mesh()
        with open_calm(replace(config, data=replace(config.data, workers=0))) as stream:
            batches = (put_batch(batch, mesh) for batch in stream)
            return aligned_params(params, model_graph(config, words), batches, start, config.seed)

    return find

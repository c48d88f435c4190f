"""Climbs a ladder: makes every run that is missing, and writes the table and the plot after each."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from maxsearch.ablation.jobs import Job, Plan, make_plan
from maxsearch.ablation.ladder import Rung
from maxsearch.ablation.launch import launch
from maxsearch.ablation.plot import METRIC, write_plot
from maxsearch.ablation.results import Collector, Results
from maxsearch.ablation.table import markdown, print_table
from maxsearch.data.catalogue import product_columns
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.evaluation.judged import judged_queries
from maxsearch.evaluation.judgments import read_qrels, read_queries
from maxsearch.evaluation.options import EvaluateOptions
from maxsearch.files import locked, write_bytes, write_json
from maxsearch.manifest import created_by
from maxsearch.training.run import signalled

RESULTS, TABLE, PLOT = "ablation.json", "table.md", "ablation"
RUNS, CACHE = "runs", ".cache"

# Runs one job: its folder, a list that a signal to end is put into, the folder of compiled programs, and the run in
# words; gives what went wrong.
Launch = Callable[[Path, list[int], Path, str], str | None]


@dataclass(frozen=True)
class AblateOptions:
    """What to run, and where.

    Attributes:
      ladder: the rungs, as `load_ladder` gives them.
      data: what `train --data` takes, by name; the first one's name is empty.
      evaluation: the judged catalogue that every run ranks.
      out: the ablation's folder.
      seeds: of every rung.
      steps: updates of every run; those of each config when None.
      redo: names of rungs whose runs are made again.
      keep_runs: whether checkpoints of finished runs stay.
    """

    ladder: Sequence[Rung]
    data: Mapping[str, str]
    evaluation: EvaluateOptions
    out: Path
    seeds: Sequence[int] = (0, 1, 2)
    steps: int | None = None
    redo: Sequence[str] = field(default=())
    keep_runs: bool = False

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise UsageError(f"--seeds {' '.join(map(str, self.seeds))}: give one or more different numbers from 0")
        if self.steps is not None and self.steps < 1:
            raise UsageError(f"--steps must be at least 1, not {self.steps}")
        names = [rung.name for rung in self.ladder]
        for name in self.redo:
            if name not in names:
                raise UsageError(f"--redo {name!r} is no rung of the ladder: choose from {', '.join(map(repr, names))}")


def ablate(options: AblateOptions, run: Launch | None = None) -> Results | None:
    """Makes the runs that are missing, one after the other.

    Everything that can be checked without training is checked first. OUT/ablation.json, table.md, ablation.svg and
    ablation.png are written after every run. A run that fails is told of, and the others go on.

    Args:
      options: what to run.
      run: how a job is run; in a process of its own when None.

    Returns:
      The results, complete but for failed runs; None when a signal ended the work early.

    Raises:
      UsageError: a flag, the ladder and what stands in OUT contradict one another.
      MaxsearchError: a file cannot be read.
    """
    out = options.out
    if out.exists() and not (out.is_dir() and ((out / RUNS).is_dir() or not any(out.iterdir()))):
        raise UsageError(f"--out {out} exists and holds no ablation: name a new folder")
    _check_evaluation(options.evaluation)
    plan = make_plan(options.ladder, options.seeds, options.data, options.evaluation, out, steps=options.steps)
    with locked(out, flag="--out"), signalled() as stop:
        (out / RUNS).mkdir(exist_ok=True)
        again = [job for job in plan.jobs if set(job.rungs) & set(options.redo)]
        for job in plan.jobs:
            if job not in again:
                job.require_same()
        for job in again:
            job.forget()
        return _climb(plan, options, run or launch, stop)


def _climb(plan: Plan, options: AblateOptions, run: Launch, stop: list[int]) -> Results | None:
    collector, failed = Collector(plan), dict[str, str]()
    results = collector.collect(failed)
    done = sum(job.finished for job in plan.jobs)
    if done:
        _tell(f"{done} of {len(plan.jobs)} runs are finished already")
    for number, job in enumerate(plan.jobs, start=1):
        if stop:
            break
        if job.finished:
            continue
        job.write()
        title = f"run {number} of {len(plan.jobs)}, {job.title}"
        _tell(f"{title}: log in {job.log}")
        why = run(job.folder, stop, options.out / CACHE, title)
        if stop and why is not None:
            break
        if why is None:
            if not options.keep_runs:
                job.drop_checkpoints()
        else:
            failed[job.title] = f"{why}; see {job.log}"
            _tell(f"{title} failed: {failed[job.title]}")
        results = collector.collect(failed)
        _write(results, options.out)
        if why is None:
            _tell(f"{title}: {_outcome(results, job)}")
    _write(results, options.out)
    print_table(results)
    return None if stop and not all(job.finished for job in plan.jobs) else results


def _write(results: Results, out: Path) -> None:
    write_json(out / RESULTS, {"created_by": created_by(), **results.to_json()})
    write_bytes(out / TABLE, markdown(results).encode())
    write_plot(results, out / PLOT)


def _outcome(results: Results, job: Job) -> str:
    """A finished run's figure of the part that its first rung ranks by."""
    result = next(result for result in results.rungs if result.rung.name == job.rungs[0])
    place = result.seeds.index(job.seed)
    return f"{METRIC} {result.by_seed[METRIC][place]:.4f}, {result.minutes[place]:.1f} min of training"


def _check_evaluation(options: EvaluateOptions) -> None:
    texts = read_queries(options.queries, options.columns)
    judged_queries(texts, read_qrels(options.qrels, options.columns), options)
    product_columns(options.products, options.columns)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def require_no_failure(results: Results) -> None:
    """Raises MaxsearchError when a run failed."""
    if results.failed:
        names = ", ".join(results.failed)
        raise MaxsearchError(
            f"{len(results.failed)} of {len(results.plan.jobs)} runs failed ({names}): their logs say why; repeat the "
            "command to try them again"
        )

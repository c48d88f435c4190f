"""The runs that a ladder needs, one per config, dataset and seed, and what stands of them on disk.

OUT/runs/RUNG/SEED/ holds job.json, which says what is run; run/, the run folder; log.txt, what training said; and, when
all is done, figures.json, the evaluation with every query's figures.
"""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from maxsearch.ablation.ladder import Rung
from maxsearch.config import Config
from maxsearch.data.dataset import PreparedDataset
from maxsearch.errors import UsageError
from maxsearch.evaluation.options import EvaluateOptions
from maxsearch.files import read_json, sha256_of, write_json
from maxsearch.training.checkpoint import FOLDER as CHECKPOINTS
from maxsearch.training.run_folder import FREE, differences

JOB, RUN, LOG, FIGURES = "job.json", "run", "log.txt", "figures.json"
REMEDY = "give --redo with the rung's name"
# What may change between two calls: it moves no figure. The number of steps does.
UNTOLD = (*(f"config.{name}" for name in FREE), "paths.")
TOLD = "config.train.steps"


@dataclass(frozen=True)
class Job:
    """One run: what is trained and evaluated, and where.

    Attributes:
      rungs: names of the rungs that read it.
      seed: of the run.
      folder: OUT/runs/RUNG/SEED, by the first of the rungs.
      description: the JSON value of job.json.
    """

    rungs: tuple[str, ...]
    seed: int
    folder: Path
    description: dict[str, Any]

    @property
    def title(self) -> str:
        """The run in words."""
        return f"{self.rungs[0]}, seed {self.seed}"

    @property
    def log(self) -> Path:
        """What its process said."""
        return self.folder / LOG

    @property
    def finished(self) -> bool:
        """Whether its figures stand there."""
        return (self.folder / FIGURES).is_file()

    def figures(self) -> dict[str, Any]:
        """What figures.json holds.

        Raises:
          MaxsearchError: it is absent or broken.
        """
        value: dict[str, Any] = read_json(self.folder / FIGURES, what="figures of a run", remedy=REMEDY)
        return value

    def require_same(self) -> None:
        """Refuses a job that was begun with other settings.

        Raises:
          UsageError: it was; the message names the rung.
          MaxsearchError: its job.json is broken.
        """
        path = self.folder / JOB
        if not path.exists():
            return
        old = read_json(path, what="job of a run", remedy=REMEDY)
        # Through Config, so that fields which a later version added have their defaults.
        old = {**old, "config": Config.from_json(old.get("config"), where=str(path)).to_json()}
        changed = [
            f"{name} was {before!r} and is now {now!r}"
            for name, before, now in differences(old, self.description)
            if name == TOLD or not name.startswith(UNTOLD)
        ]
        if changed:
            more = f"; and {len(changed) - 2} more" if len(changed) > 2 else ""
            raise UsageError(
                f"the rung {self.rungs[0]!r} was run with other settings in {self.folder} ({'; '.join(changed[:2])}"
                f"{more}): undo the change, run the rung again with --redo {self.rungs[0]!r}, or name another --out"
            )

    def write(self) -> None:
        """Writes job.json."""
        write_json(self.folder / JOB, self.description)

    def forget(self) -> None:
        """Removes all that stands there."""
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def drop_checkpoints(self) -> None:
        """Removes the checkpoints, the large part of a run."""
        shutil.rmtree(self.folder / RUN / CHECKPOINTS, ignore_errors=True)


@dataclass(frozen=True)
class Plan:
    """A ladder with its jobs.

    Attributes:
      rungs: the ladder.
      seeds: of every rung.
      jobs: in the order in which they are run: all rungs of the first seed before those of the second.
      data: path of each dataset by its name, the first one's name is empty.
    """

    rungs: list[Rung]
    seeds: tuple[int, ...]
    jobs: list[Job]
    data: dict[str, str]

    def job(self, rung: str, seed: int) -> Job:
        """The job that a rung reads."""
        return next(job for job in self.jobs if rung in job.rungs and job.seed == seed)


def make_plan(
    rungs: Sequence[Rung],
    seeds: Sequence[int],
    data: Mapping[str, str],
    evaluation: EvaluateOptions,
    out: Path,
    *,
    steps: int | None = None,
) -> Plan:
    """Says which runs a ladder needs.

    Args:
      rungs: the ladder.
      seeds: of every rung, all different.
      data: what `train --data` takes, by name; the first one's name is empty.
      evaluation: how every run is evaluated.
      out: the ablation's folder.
      steps: updates of every run; those of each config when None.

    Raises:
      UsageError: a rung names a dataset that is not there.
      MaxsearchError: a dataset or a file cannot be read.
    """
    identities = {name: identity_of(place) for name, place in data.items()}
    checksums = {name: sha256_of(getattr(evaluation, name)) for name in ("products", "queries", "qrels")}
    options = {name: getattr(evaluation, name) for name in ("columns", "relevant_grade", "k")}
    paths = {name: absolute(str(getattr(evaluation, name))) for name in checksums}
    if evaluation.image_dir is not None:
        paths["image_dir"] = absolute(str(evaluation.image_dir))

    # By what they compute, so that equal rungs come together under the first one's name.
    groups: dict[tuple[str, str], list[Rung]] = {}
    for rung in rungs:
        if rung.data not in data:
            what = f"the dataset {rung.data!r}" if rung.data else "a dataset without a name"
            given = f"{rung.data}=PATH" if rung.data else "PATH"
            raise UsageError(f"rung {rung.name!r} needs {what}, which is not given: add --data {given}")
        groups.setdefault((computed(rung.config).fingerprint(), rung.data), []).append(rung)

    jobs = []
    for seed in seeds:
        for alike in groups.values():
            first = alike[0]
            config = replace(first.config, seed=seed)
            if steps is not None:
                config = replace(config, train=replace(config.train, steps=steps))
            description = {
                "config": config.to_json(),
                "data": identities[first.data],
                "evaluation": {"options": options, "checksums": checksums},
                "paths": {**paths, "data": absolute(data[first.data])},
            }
            as_read = json.loads(json.dumps(description))  # tuples are lists there
            folder = out / "runs" / first.slug / str(seed)
            jobs.append(Job(tuple(rung.name for rung in alike), seed, folder, as_read))
    return Plan(list(rungs), tuple(seeds), jobs, dict(data))


def computed(config: Config) -> Config:
    """A config without what its name and seed say, which do not tell rungs apart."""
    return replace(config, name="", seed=0)


def identity_of(data: str) -> str:
    """What tells datasets apart: a prepared folder's fingerprint, wherever it stands, or a TFDS name.

    Raises:
      MaxsearchError: the folder holds no prepared data.
    """
    return data if data.startswith("tfds:") else PreparedDataset.open(Path(data)).fingerprint


def absolute(data: str) -> str:
    """A place as seen from any folder."""
    return data if data.startswith("tfds:") else str(Path(data).absolute())


def named_data(words: Sequence[str]) -> dict[str, str]:
    """Datasets by name, from `DATA NAME=DATA ...`; the name of the one without is empty.

    Raises:
      UsageError: two have the same name.
    """
    data: dict[str, str] = {}
    for word in words:
        named = re.fullmatch(r"([\w-]+)=(.+)", word)
        name, place = named.groups() if named else ("", word)
        if name in data:
            raise UsageError(f"--data {word}: {data[name]} has that name already, give the further ones as NAME=DATA")
        data[name] = place
    return data

"""What a run folder tells: its config, the logged numbers, where the time went, and on what it ran."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from maxsearch.config import Config, MeshConfig
from maxsearch.errors import MaxsearchError
from maxsearch.files import read_json
from maxsearch.training.goodput import GOODPUT, goodput, read_lines
from maxsearch.training.run_folder import DATA, ENVIRONMENT, METRICS, ORIGIN, read_config

REMEDY = "restore it, or name the folder of another run"


@dataclass(frozen=True)
class Series:
    """A logged number by step; `dropped` counts the logged values that were no finite number."""

    steps: Float64[np.ndarray, " L"]
    values: Float64[np.ndarray, " L"]
    dropped: int = 0


@dataclass(frozen=True)
class RunFolder:
    """One run.

    Attributes:
      name: the folder's.
      config: the resolved one.
      series: every logged number by name.
      shares: of wall time by reason; `steps` is the goodput.
      began: when the first process did, in seconds of the epoch; None when it was not recorded.
      seconds: wall time of all processes.
      processes: the environment of each that began or continued the run, as it was recorded; may be empty.
      parameters: their number.
      data: where it found its training data, as it noted them; empty when it did not.
      begins_with: the run or model that gave the first parameters, by the name of its folder.
    """

    name: str
    config: Config
    series: dict[str, Series]
    shares: dict[str, float]
    began: float | None
    seconds: float
    processes: list[dict[str, Any]]
    parameters: int
    data: list[str]
    begins_with: str | None

    @property
    def steps(self) -> int:
        """The last step that was logged."""
        return int(max((series.steps[-1] for series in self.series.values() if len(series.steps)), default=0))


def read_run(run: Path) -> RunFolder:
    """Reads a run folder.

    Raises:
      MaxsearchError: it is none, or a file of it is damaged.
    """
    config = read_config(run)
    lines = _goodput(run)
    origin = read_json(run / ORIGIN, what="origin of the run", remedy=REMEDY) if (run / ORIGIN).is_file() else {}
    begins_with = origin.get("from") if isinstance(origin, dict) else None
    return RunFolder(
        name=run.resolve().name,
        config=config,
        series=read_series(run / METRICS),
        shares=goodput(lines),
        began=min((line["began"] for line in lines), default=None),
        seconds=sum((line["wall"] for line in lines), 0.0),
        processes=_processes(run / ENVIRONMENT),
        parameters=_parameters(config),
        data=_data(run / DATA),
        begins_with=Path(begins_with).name if isinstance(begins_with, str) else None,
    )


def read_series(path: Path) -> dict[str, Series]:
    """The numbers of metrics.jsonl by name, in the order of their first line; none when there is no file.

    A last line that a kill cut short is left out.

    Raises:
      MaxsearchError: another line is no JSON object with a step.
    """
    if not path.is_file():
        return {}
    found: dict[str, list[tuple[float, float]]] = {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            step = float(row.pop("step"))
        except (ValueError, KeyError, TypeError, AttributeError):
            if number == len(lines):
                break
            raise MaxsearchError(
                f"line {number} of {path} is no object with a step, so the file was altered: {REMEDY}"
            ) from None
        for name, value in row.items():
            if isinstance(value, int | float):
                found.setdefault(name, []).append((step, float(value)))
    return {name: _series(pairs) for name, pairs in found.items()}


def _series(pairs: list[tuple[float, float]]) -> Series:
    kept = [pair for pair in pairs if all(map(math.isfinite, pair))]
    steps, values = (np.array([pair[side] for pair in kept], np.float64) for side in (0, 1))
    return Series(steps, values, len(pairs) - len(kept))


def _goodput(run: Path) -> list[dict[str, Any]]:
    try:
        lines = read_lines(run)
        for line in lines:
            float(line["began"] + line["wall"] + line["first"] + line["last"] + sum(line["seconds"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise MaxsearchError(f"{run / GOODPUT} is damaged: {REMEDY}") from None
    return lines


def _data(path: Path) -> list[str]:
    if not path.is_file():
        return []
    found = read_json(path, what="record of the training data", remedy=REMEDY)
    noted = found.get("data") if isinstance(found, dict) else None
    if not isinstance(noted, list) or not all(isinstance(one, str) for one in noted):
        raise MaxsearchError(f"{path} is damaged: {REMEDY}")
    return noted


def _processes(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    found = read_json(path, what="environment of the run", remedy=REMEDY)
    processes = found.get("processes") if isinstance(found, dict) else None
    if not isinstance(processes, list) or not all(isinstance(one, dict) for one in processes):
        raise MaxsearchError(f"{path} is damaged: {REMEDY}")
    return processes


def _parameters(config: Config) -> int:
    import jax

    from maxsearch.mesh import make_mesh
    from maxsearch.training.state import init_params

    with jax.set_mesh(make_mesh(MeshConfig())):  # the run may have had more devices than there are here
        shapes = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))

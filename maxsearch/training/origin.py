"""The parameters with which a new run begins: those of another run, or of an exported model (`--init-from`)."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from maxsearch import model_files
from maxsearch.config import Config
from maxsearch.data.keywords import KEYWORDS, Lexicon
from maxsearch.errors import UsageError
from maxsearch.files import read_json, write_json
from maxsearch.training.checkpoint import Checkpoints
from maxsearch.training.optim import path_name
from maxsearch.training.run_folder import CONFIG, ORIGIN, TOKENIZER, read_config
from maxsearch.training.stages import with_params
from maxsearch.training.state import TrainState

NAMED = 3  # names in a report
KEYWORD_HEADS = "heads/keywords"


@dataclass(frozen=True)
class Origin:
    """What another run or model gives.

    Attributes:
      folder: where it stands.
      step: the training step of its parameters, where it is known.
      params: its averaged parameters by their paths.
      lexicon: its keywords, None when it has none.
    """

    folder: Path
    step: int | None
    params: dict[str, np.ndarray]
    lexicon: Lexicon | None


@dataclass(frozen=True)
class Taken:
    """Which parameters a run took from its origin.

    Attributes:
      taken: paths of both, with the same shape.
      new: paths that the origin does not have, or has in another shape; they start as drawn.
      left: paths of the origin's that the run has no use for.
    """

    taken: list[str]
    new: list[str]
    left: list[str]

    def __str__(self) -> str:
        parts = [f"{len(self.taken)} parameters taken"]
        for what, names in (("new", self.new), ("left", self.left)):
            if names:
                more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
                parts.append(f"{len(names)} {what} ({', '.join(names[:NAMED])}{more})")
        return ", ".join(parts)


def read_origin(folder: Path, config: Config, mesh: Mesh) -> Origin:
    """Reads a run's averaged parameters at its latest step, or an exported model.

    Args:
      folder: the run or model.
      config: of the run that begins.
      mesh: of the run that begins.

    Raises:
      MaxsearchError: it is neither, or a file of it is missing or damaged.
      UsageError: its vocabulary has another size.
    """
    if (folder / model_files.WEIGHTS).exists():
        step = model_files.verify_model(folder).get("step")
        theirs, params = config_of(folder), model_files.read_weights(folder)
    else:
        theirs = config_of(folder)
        checkpoints = Checkpoints(folder)
        try:
            step = checkpoints.require(None)
            params = checkpoints.averages(step, mesh)
        finally:
            checkpoints.close()
    if theirs.model.vocab_size != config.model.vocab_size:
        raise UsageError(
            f"--init-from {folder} has {theirs.model.vocab_size} embeddings of tokens and the new run "
            f"{config.model.vocab_size}: set --model.vocab-size {theirs.model.vocab_size}"
        )
    lexicon = Lexicon.load(folder / KEYWORDS, remedy="name another run or model") if theirs.model.keywords else None
    return Origin(folder, step, model_files.flatten_params(params), lexicon)


def config_of(folder: Path) -> Config:
    """The config of a run, or of an exported model.

    Raises:
      MaxsearchError: it is neither, or its config is damaged.
    """
    if not (folder / model_files.WEIGHTS).exists():
        return read_config(folder)
    value = read_json(folder / CONFIG, what="model config", remedy=model_files.MODEL.remedy)
    return Config.from_json(value, where=str(folder / CONFIG))


def with_tokenizer(config: Config, folder: Path) -> Config:
    """The config of a run that begins with another's tokenizer; the folder need not stand any more when it goes on.

    Raises:
      UsageError: the config names a tokenizer of its own.
    """
    tokenizer = str(folder / TOKENIZER)
    if config.data.tokenizer not in ("", tokenizer):
        raise UsageError(f"--init-from {folder} brings its own tokenizer: leave --data.tokenizer out")
    return replace(config, data=replace(config.data, tokenizer=tokenizer))


def take(origin: Origin, state: TrainState, lexicon: Lexicon | None) -> tuple[TrainState, Taken]:
    """A fresh state with every parameter of the origin that has the same path and shape.

    The keyword heads are taken only when both have the same keywords, whose places in the vocabulary they know.

    Args:
      origin: what `read_origin` gave.
      state: a fresh one.
      lexicon: the keywords of the run that begins.

    Raises:
      UsageError: no array fits.
    """
    offered = dict(origin.params)
    if lexicon is None or origin.lexicon is None or lexicon.words != origin.lexicon.words:
        offered = {name: value for name, value in offered.items() if not name.startswith(KEYWORD_HEADS)}
    here = {path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(state.params)}
    fits = {name for name, leaf in here.items() if name in offered and offered[name].shape == leaf.shape}
    if not any(here[name].ndim for name in fits):  # the temperature fits any model
        raise UsageError(
            f"--init-from {origin.folder} holds no parameter of the new run's names and shapes: train the "
            "architecture that it has, or leave the flag out"
        )
    params = jax.tree.map_with_path(
        lambda path, leaf: offered[path_name(path)] if path_name(path) in fits else leaf, state.params
    )
    report = Taken(sorted(fits), sorted(here.keys() - fits), sorted(origin.params.keys() - fits))
    return with_params(state, params), report


def record(run: Path, origin: Origin, report: Taken) -> None:
    """Writes RUN/origin.json: where a run's first parameters came from."""
    value: dict[str, Any] = {"from": str(origin.folder.absolute()), "step": origin.step}
    write_json(run / ORIGIN, value | {"taken": report.taken, "new": report.new, "left": report.left})

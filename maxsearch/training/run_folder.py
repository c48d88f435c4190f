"""The run folder: resolved config, tokenizer, keywords, and the rules for continuing what stands there.

RUN/config.json, RUN/data.json, RUN/tokenizer/, RUN/keywords.json, RUN/lengths/, RUN/origin.json, RUN/pretrained.json,
RUN/environment.json, RUN/checkpoints/STEP/, RUN/metrics.jsonl, RUN/tensorboard/, RUN/goodput.jsonl, RUN/profile/.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from maxsearch.config import Config
from maxsearch.data.keywords import KEYWORDS, Lexicon
from maxsearch.data.sources import ExampleSource
from maxsearch.data.tables.prepared import is_prepared
from maxsearch.data.tokenize import load_tokenizer, save_tokenizer, train_tokenizer
from maxsearch.data.tokens.encoder import table_of
from maxsearch.errors import UsageError
from maxsearch.files import directory_in_place, locked, read_json, write_json
from maxsearch.models.pretrained.load import REPORT
from maxsearch.models.pretrained.source import find_source
from maxsearch.training.checkpoint import FOLDER, has_checkpoint
from maxsearch.training.goodput import GOODPUT

CONFIG = "config.json"
DATA = "data.json"
TOKENIZER = "tokenizer"
LENGTHS = "lengths"
ORIGIN = "origin.json"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
PROFILE = "profile"

# What may change when a run is continued, because it does not change what a step computes.
FREE = (
    "train.",
    "mesh.",
    *(f"data.{name}" for name in ("workers", "threads", "prefetch", "cache_images_mb", "max_bad_fraction")),
    "name",
)


def read_config(run: Path) -> Config:
    """The resolved config of a run.

    Raises:
      MaxsearchError: the folder is no run folder, or its config does not fit this version.
    """
    value = read_json(run / CONFIG, what="run config", remedy="name a run folder that `maxsearch train` wrote")
    return Config.from_json(value, where=str(run / CONFIG))


def require_run_folder(run: Path) -> None:
    """Refuses a path where a run can neither begin nor go on.

    Raises:
      UsageError: a file stands there, or a folder with other content.
    """
    if not run.exists() or ((run / CONFIG).exists() and has_checkpoint(run)):
        return
    # Of a run that was broken off early some parts may stand there, and hidden drafts of files.
    settings = {CONFIG, DATA, TOKENIZER, KEYWORDS, LENGTHS, ORIGIN, REPORT, ENVIRONMENT}
    parts = {*settings, FOLDER, METRICS, TENSORBOARD, GOODPUT, PROFILE}
    if not run.is_dir() or any(path.name not in parts and path.name[0] != "." for path in run.iterdir()):
        raise UsageError(f"--run {run} exists and is no run folder: name a new folder")


@contextmanager
def alone(run: Path) -> Iterator[None]:
    """Keeps a second process of this machine out of the run folder, which is made when absent.

    Raises:
      UsageError: one is at work there, or something else than a run stands there.
    """
    require_run_folder(run)
    with locked(run, flag="--run"):
        yield


def record_data(run: Path, data: Sequence[str]) -> None:
    """Writes RUN/data.json: what `train --data` was given, with folders as absolute paths."""
    places = []
    for entry in data:
        name, named, place = entry.rpartition("=")
        places.append(f"{name}{named}{Path(place).absolute() if Path(place).is_dir() else place}")
    write_json(run / DATA, {"data": places})


def training_data(run: Path) -> Path | None:
    """The prepared folder that a run learned from; None when there were several, or it is not there any more.

    Raises:
      MaxsearchError: RUN/data.json is broken.
    """
    if not (run / DATA).is_file():
        return None
    value = read_json(run / DATA, what="record of the training data", remedy="remove it, or name the data")
    places = value.get("data") if isinstance(value, dict) else None
    if not isinstance(places, list) or len(places) != 1 or not isinstance(places[0], str):
        return None
    folder = Path(places[0].rpartition("=")[2])
    return folder if is_prepared(folder) else None


def settle_config(run: Path, config: Config) -> None:
    """Writes the config of a new run, or checks that it continues the run that stands there.

    A run that was broken off before its first checkpoint has nothing to continue and begins anew.

    Raises:
      UsageError: the folder holds a run with other settings.
    """
    if has_checkpoint(run):
        changed = [
            f"{name} was {old!r} and is now {new!r}"
            for name, old, new in differences(read_config(run).to_json(), config.to_json())
            if not name.startswith(FREE)
        ]
        if changed:
            more = f"; and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise UsageError(
                f"--run {run} holds a run with other settings ({'; '.join(changed[:3])}{more}): "
                "repeat the command that began it, or name a new folder"
            )
    write_json(run / CONFIG, config.to_json())


def differences(old: Any, new: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted name, old value, new value) of everything that differs between two JSON objects."""
    if records(old) and records(new) and len(old) == len(new):
        old, new = ({str(place): value for place, value in enumerate(values)} for values in (old, new))
    if not isinstance(old, dict) or not isinstance(new, dict):
        return [] if old == new else [(prefix, old, new)]
    found = []
    for name in sorted(old.keys() | new.keys()):
        found += differences(old.get(name), new.get(name), f"{prefix}.{name}" if prefix else name)
    return found


def records(value: Any) -> bool:
    """Whether a JSON value is a list of objects, such as stages."""
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def settle_tokenizer(run: Path, config: Config, source: ExampleSource) -> PreTrainedTokenizerFast:
    """The run's tokenizer: that of the run that is continued; else the config's, that of the pretrained source of its
    text towers, that of the data, or one trained here.

    Raises:
      UsageError: the tokenizer cannot be loaded, or has more tokens than the model has embeddings.
    """
    folder = run / TOKENIZER
    if not has_checkpoint(run):
        table = table_of(source)
        pretrained = config.model.query.pretrained or config.model.title.pretrained
        place: Path | None = None
        if config.data.tokenizer:
            place = Path(config.data.tokenizer)
        elif pretrained:
            place = find_source(pretrained).folder
        elif table:
            place = table.tokenizer
        if place is not None:
            tokenizer = load_tokenizer(place)
        else:
            tokenizer = train_tokenizer(source.texts(), config.model.vocab_size)
        if len(tokenizer) > config.model.vocab_size:
            raise UsageError(
                f"the tokenizer {place} has {len(tokenizer)} tokens and the model "
                f"{config.model.vocab_size} embeddings: set --model.vocab-size {len(tokenizer)} or more"
            )
        with directory_in_place(folder) as draft:
            save_tokenizer(tokenizer, draft)
    return load_tokenizer(folder)


def settle_lexicon(run: Path, config: Config, source: ExampleSource) -> Lexicon | None:
    """The run's keywords: those of the run that is continued, or the first `model.keywords` of the source's.

    For a source without any they are counted, its texts taken for queries. None when the model has no keywords.

    Raises:
      MaxsearchError: the file of the run that is continued is absent or damaged.
      UsageError: the texts hold no word twice.
    """
    if not config.model.keywords:
        return None
    if not has_checkpoint(run):
        lexicon = source.lexicon
        if lexicon is None:
            lexicon = Lexicon.of_queries(source.texts(), config.model.keywords)
        if not len(lexicon):
            raise UsageError("the data hold no word that is said twice, so there are no keywords: set model.keywords 0")
        lexicon.top(config.model.keywords).save(run / KEYWORDS)
    return read_lexicon(run, config)


def read_lexicon(run: Path, config: Config) -> Lexicon | None:
    """The keywords of a run, None when its model has none.

    Raises:
      MaxsearchError: the file is absent or damaged.
    """
    return Lexicon.load(run / KEYWORDS, remedy="begin a new run") if config.model.keywords else None

"""What the sub-commands' flags share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from maxsearch.config import Config
from maxsearch.errors import UsageError

MAP_FIELDS = (
    *("product_id", "title", "image", "text", "variant", "query", "weight", "position", "query_id", "grade"),
    *("image_id", "caption", "left_id", "right_id"),
)

Mapping = Annotated[tuple[str, ...], arg(metavar="FIELD=COLUMN ...")]
OptionalPath = Annotated[Path | None, arg(metavar="PATH")]
ConfigFlags = Annotated[Config, arg(name="")]
OptionalInt = Annotated[int | None, arg(metavar="INT")]


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """A signal ended the command early, everything is saved, and the same command goes on from there.

    Attributes:
      exit_code: what the command leaves with.
    """

    def __init__(self, message: str, exit_code: int = 0) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def encoder_at(folder: Path) -> Any:
    """The Encoder of a run or of an exported model's folder."""
    from maxsearch.encode import Encoder
    from maxsearch.manifest import MANIFEST
    from maxsearch.training.run_folder import CONFIG

    if (folder / MANIFEST).is_file():
        return Encoder.from_model(folder)
    if (folder / CONFIG).is_file():
        return Encoder.from_run(folder)
    raise UsageError(f"--screen {folder} is neither a run nor an exported model: name a folder of train or of export")


def loaded_encoder(run: Path | None, model: Path | None, step: int | None, out: Path | None) -> Any:
    """The Encoder that --run (and --step) or --model names.

    Raises:
      UsageError: neither or both are given, a step without a run, or --out is a folder.
    """
    from maxsearch.encode import Encoder

    require_one_model(run, model, step, out)
    if model is not None:
        return Encoder.from_model(model)
    assert run is not None
    return Encoder.from_run(run, step)


def require_one_model(run: Path | None, model: Path | None, step: int | None, out: Path | None) -> None:
    """Refuses flags that `loaded_encoder` cannot use, before anything is read."""
    if out is not None and out.is_dir():
        raise UsageError(f"--out {out} is a folder: give the name of a file")
    if step is not None and run is None:
        raise UsageError("--step names a checkpoint of a run: give --run, or leave --step out")
    if (run is None) == (model is None):
        raise UsageError("name the model with either --run or --model")


def columns_of(pairs: Sequence[str]) -> dict[str, str | tuple[str, ...]]:
    """The --map flag as a dict."""
    from maxsearch.data.tables.read import parse_mapping

    return parse_mapping(pairs, MAP_FIELDS)

"""The `maxsearch` command: parses, runs one sub-command, and turns every failure into one sentence and an exit code."""

import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Union

# Before the libraries that read them: their start-up chatter says nothing to whoever runs a command.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

import tyro
from tyro.conf import subcommand

from maxsearch import __version__, commands
from maxsearch.config import Config, load_preset, preset_names
from maxsearch.errors import MaxsearchError, UsageError

DESCRIPTION = "Pretrain, prove and serve text-to-multimodal product search."


def command_type(preset: Config) -> Any:
    """The union of all sub-commands; the values of `preset` are the defaults of train's flags."""
    train = commands.Train(preset=tyro.MISSING, data=tyro.MISSING, run_folder=tyro.MISSING, config=preset)
    return Union[  # noqa: UP007 - built from values, which the | form of annotations cannot be
        Annotated[commands.Quickstart, subcommand("quickstart")],
        Annotated[commands.Prepare, subcommand("prepare")],
        Annotated[commands.Train, subcommand("train", default=train)],
        Annotated[commands.Evaluate, subcommand("evaluate")],
        Annotated[commands.Export, subcommand("export")],
        Annotated[commands.Index, subcommand("index")],
        Annotated[commands.Search, subcommand("search")],
    ]


def parse(arguments: Sequence[str]) -> Any:
    """The command that the arguments name.

    Raises:
      UsageError: the preset does not exist, or a value is refused.
      SystemExit: bad usage (2), or help was asked for (0).
    """
    preset = Config()
    if arguments and arguments[0] == "train":
        names = [word for word in arguments[1:2] if not word.startswith("-")]
        if names:
            preset = load_preset(names[0])
        elif not {"-h", "--help"} & set(arguments):
            raise UsageError(f"train needs a preset as its first word: choose one of {', '.join(preset_names())}")
    return tyro.cli(command_type(preset), prog="maxsearch", description=DESCRIPTION, args=list(arguments))


def quiet_libraries() -> None:
    """Keeps the libraries' information messages off the terminal; warnings and errors stay."""
    for name in ("absl", "orbax", "grain", "bm25s", "jax"):
        logging.getLogger(name).setLevel(logging.WARNING)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command; leaves with 0 on success, 2 on bad usage, 1 on failure."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words in (["--version"], ["-V"]):
        print(f"maxsearch {__version__}")
        return
    quiet_libraries()
    try:
        parse(words).run()
    except MaxsearchError as error:
        fail(str(error), error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone; there is nobody to tell
        sys.exit(1)
    except OSError as error:
        where = f" on {error.filename}" if error.filename else ""
        fail(f"{error.strerror or error}{where}: look at the path, its permissions and the free space", 1)
    except KeyboardInterrupt:
        fail("interrupted", 130)


def fail(message: str, code: int) -> None:
    """Prints the sentence and leaves."""
    print(f"maxsearch: {message}", file=sys.stderr)
    sys.exit(code)

"""The `maxsearch` command: parses, runs one sub-command, and turns every failure into one sentence and an exit code."""

import difflib
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import make_dataclass, replace
from typing import Annotated, Any, Union

# Before the libraries that read them: their start-up chatter says nothing to whoever runs a command.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tyro
from tyro.conf import subcommand

from maxsearch import __version__
from maxsearch.commands.ablate import Ablate
from maxsearch.commands.captions import Captions
from maxsearch.commands.completion import Completion
from maxsearch.commands.data import Data
from maxsearch.commands.doctor import Doctor
from maxsearch.commands.embed import Embed
from maxsearch.commands.evaluate import Evaluate
from maxsearch.commands.explain import Explain
from maxsearch.commands.export import Export
from maxsearch.commands.flags import ConfigFlags, Stopped
from maxsearch.commands.index import Index
from maxsearch.commands.launch_local import LaunchLocal
from maxsearch.commands.mine import Mine
from maxsearch.commands.plan import Plan
from maxsearch.commands.prepare import Prepare
from maxsearch.commands.quickstart import Quickstart
from maxsearch.commands.report import Report
from maxsearch.commands.same_style import SameStyle
from maxsearch.commands.search import Search
from maxsearch.commands.serve import Serve
from maxsearch.commands.train import Train
from maxsearch.commands.words import Words
from maxsearch.config import Config
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.presets import load_preset, preset_names

DESCRIPTION = "Pretrain, prove and serve text-to-multimodal product search."

COMMANDS: dict[str, Any] = {
    "quickstart": Quickstart,
    "prepare": Prepare,
    "data": Data,
    "train": Train,
    "mine": Mine,
    "launch-local": LaunchLocal,
    "plan": Plan,
    "evaluate": Evaluate,
    "captions": Captions,
    "same-style": SameStyle,
    "words": Words,
    "explain": Explain,
    "ablate": Ablate,
    "report": Report,
    "export": Export,
    "embed": Embed,
    "index": Index,
    "search": Search,
    "serve": Serve,
    "doctor": Doctor,
    "completion": Completion,
}
OF_PRESETS = ("train", "plan")


def parse(arguments: Sequence[str]) -> Any:
    """The command that the arguments name.

    Raises:
      UsageError: the preset does not exist, or a value is refused.
      SystemExit: bad usage (2), or help was asked for (0).
    """
    name, *rest = arguments or ("",)
    if name in COMMANDS:
        # Parsed alone, so that help and suggestions speak of this sub-command only.
        kind = with_preset(COMMANDS[name], name, rest) if name in OF_PRESETS else COMMANDS[name]
        if kind is LaunchLocal and "--" in rest:
            own, words = rest[: rest.index("--")], rest[rest.index("--") + 1 :]
            return replace(tyro.cli(LaunchLocal, prog=f"maxsearch {name}", args=own), words=tuple(words))
        return tyro.cli(kind, prog=f"maxsearch {name}", args=rest)
    if name and not name.startswith("-"):
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(COMMANDS)}"
        raise UsageError(f"no sub-command {name!r}: {hint}")
    every = tuple(Annotated[kind, subcommand(name)] for name, kind in COMMANDS.items())
    union: Any = Union[every]  # noqa: UP007 - built from values, which the | form of annotations cannot be
    return tyro.cli(union, prog="maxsearch", description=DESCRIPTION, args=list(arguments))


def with_preset(command: Any, name: str, arguments: Sequence[str]) -> Any:
    """A command whose flags have for defaults the values of the preset that its first word names."""
    preset = Config()
    if arguments and not arguments[0].startswith("-"):
        preset = load_preset(arguments[0])
    elif not {"-h", "--help"} & set(arguments):
        raise UsageError(f"{name} needs a preset as its first word: choose one of {', '.join(preset_names())}")
    fields = [("config", ConfigFlags, preset)]
    documented = {"__doc__": command.__doc__}
    return make_dataclass(command.__name__, fields, bases=(command,), frozen=True, namespace=documented)


def quiet_libraries() -> None:
    """Keeps the libraries' information messages off the terminal; warnings and errors stay."""
    for name in ("absl", "orbax", "grain", "jax"):
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
        sys.stdout.flush()
    except Stopped as stopped:
        if str(stopped):  # of several processes one speaks
            print(f"{stopped}; resume with: {shlex.join(['maxsearch', *words])}", flush=True)
        if stopped.exit_code:
            sys.exit(stopped.exit_code)
    except MaxsearchError as error:
        fail(str(error), error.exit_code)
    except BrokenPipeError:
        # Whoever read our output has gone. What is still buffered must not fail again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
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

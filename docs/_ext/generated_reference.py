"""Reference pages written from the code itself: the command line, the config, the presets.

A page holds a line such as `<!-- generated: commands -->`; when Sphinx reads the page, the line becomes Markdown that
the real parser and the real dataclasses give, so that no flag and no default is written down twice.
"""

import argparse
import dataclasses
import inspect
import re
import textwrap
import typing
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tyro
from sphinx.application import Sphinx

from maxsearch.cli import COMMANDS, OF_PRESETS, with_preset
from maxsearch.config import Config
from maxsearch.presets import configs_folder, load_preset, preset_names

DOCS = Path(__file__).parent.parent
MARK = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)
DEFAULT = re.compile(r"\s*\((default: (?P<value>.*)|required)\)$", re.DOTALL)


def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser that `maxsearch NAME` parses with."""
    kind = with_preset(COMMANDS[name], name, ["--help"]) if name in OF_PRESETS else COMMANDS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the one way to see a whole parser; tyro is pinned below 2
        return tyro.extras.get_parser(kind, prog=f"maxsearch {name}")


def commands() -> str:
    """Every sub-command with its flags."""
    return "\n\n".join(part for name in COMMANDS for part in command(f"maxsearch {name}", parser_of(name), 2))


def command(title: str, parser: argparse.ArgumentParser, level: int) -> Iterator[str]:
    """A section for a command, and one below it for each of its actions."""
    yield f"{'#' * level} {title}"
    yield prose(parser.description or "")
    preset_flags = any(action.dest.startswith(("model.", "config.model.")) for action in parser._actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, part in action.choices.items():
                yield from command(f"{title} {name}", part, level + 1)
        elif action.dest != "help" and not (preset_flags and of_config(action)):
            yield flag(action)
    if preset_flags:
        yield "And every value of the [config](config.md), by the flag named there; the preset gives the defaults."


def of_config(action: argparse.Action) -> bool:
    """Whether a flag is a value of the config."""
    names = {field.name for field in dataclasses.fields(Config)}
    return any(word.lstrip("-").split(".")[0] in names for word in action.option_strings)


def flag(action: argparse.Action) -> str:
    """A flag as an entry of a definition list."""
    names = ", ".join(f"`{word}`" for word in action.option_strings)
    # Of a flag that takes no value, both forms are its names.
    values = (
        "" if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction) else str(action.metavar or "")
    )
    head = " ".join(filter(None, (names, f"`{values}`" if values else "")))
    told = action.help or ""
    found = DEFAULT.search(told)
    text = " ".join(prose(told[: found.start()] if found else told).split())
    if found and found["value"] is None:
        text += " **Required.**"
    elif found and found["value"].strip() not in ("", "None", "''", "False"):
        text += f" Default: `{found['value']}`."
    return f"{head}\n: {text.strip()}"


def prose(text: str) -> str:
    """A help text or docstring as Markdown of one paragraph or several, its angle brackets and stars kept."""
    text = inspect.cleandoc(text)
    parts = re.split(r"(`[^`]*`)", text)
    for place in range(0, len(parts), 2):
        parts[place] = re.sub(r"([*_<\[\]|])", r"\\\1", parts[place])
    return "".join(parts)


def settings() -> str:
    """Every dataclass of the config: what it says of itself, and its fields."""
    return "\n\n".join(part for path, kind in parts_of(Config, "") for part in section(path, kind))


def parts_of(kind: type, path: str) -> Iterator[tuple[str, type]]:
    """(path, dataclass) of a config and all below it, in the order of the flags."""
    yield path, kind
    hints = typing.get_type_hints(kind)
    for one in dataclasses.fields(kind):
        below = hints[one.name]
        for inner in (below, *typing.get_args(below)):
            if dataclasses.is_dataclass(inner) and isinstance(inner, type):
                yield from parts_of(inner, f"{path}{one.name}.")


def section(path: str, kind: type) -> Iterator[str]:
    """A heading, the prose of the docstring, and the table of the fields that are values."""
    said, told, shared = documented(kind)
    yield f"## {f'`{path[:-1]}`: ' if path else ''}{kind.__name__}"
    yield prose(said)
    if shared:
        yield "\n".join(f"- {prose(entry)}" for entry in shared)
    hints = typing.get_type_hints(kind)
    rows = []
    for one in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[one.name]):
            continue
        shown = "" if path.startswith("stages.") or one.name == "stages" else f"--{path}{one.name}".replace("_", "-")
        name = f"`{shown}`" if shown else f"`{one.name}`"
        cells = (name, f"`{type_name(hints[one.name])}`", f"`{default_of(one)}`", prose(told.get(one.name, "")))
        rows.append("| " + " | ".join(cell.replace("\n", " ") for cell in cells) + " |")
    with_words = any(told.get(one.name) for one in dataclasses.fields(kind))
    if not with_words:
        rows = [row.rsplit("|", 2)[0] + "|" for row in rows]
    if rows:
        head = ["flag" if not path.startswith("stages.") else "field", "type", "default"] + ["what"] * with_words
        yield "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *rows])


def documented(kind: type) -> tuple[str, dict[str, str], list[str]]:
    """A docstring's prose, what its Attributes section says of each field, and the entries that speak of several."""
    said, _, attributes = inspect.cleandoc(kind.__doc__ or "").partition("\nAttributes:\n")
    told: dict[str, str] = {}
    shared = []
    for entry in re.split(r"\n(?=\S)", textwrap.dedent(attributes).strip("\n")):
        names, _, text = (" ".join(entry.split())).partition(": ")
        if names.isidentifier():
            told[names] = text
        elif names:
            shared.append(f"`{names}`: {text}")
    return said, told, shared


def type_name(hint: Any) -> str:
    """A type as a reader writes it."""
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(map(str, typing.get_args(hint)))
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else re.sub(r"\w+\.", "", str(hint))


def default_of(one: dataclasses.Field[Any]) -> str:
    """The value that a field has unless given."""
    if one.default is not dataclasses.MISSING:
        return repr(one.default) if one.default != "" else '""'
    return repr(one.default_factory()) if one.default_factory is not dataclasses.MISSING else "required"


def presets() -> str:
    """Every preset: what its file says, and where it differs from the defaults."""
    plain = dict(flat(dataclasses.asdict(Config())))
    parts = []
    for name in preset_names():
        source = (configs_folder() / f"{name}.py").read_text(encoding="utf-8")
        said = inspect.cleandoc(source.split('"""', 2)[1]) if source.startswith('"""') else ""
        loaded = load_preset(name)
        changed = {key: value for key, value in flat(dataclasses.asdict(loaded)) if plain.get(key) != value}
        lines = "\n".join(f"{key} = {value!r}" for key, value in changed.items())
        parts.append(f"## {name}\n\n```text\n{said}\n```\n\n```python\n{lines}\n```")
    return "\n\n".join(parts)


def flat(values: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of nested dicts."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{path}{name}.")
        else:
            yield path + name, value


def further() -> str:
    """The pages of docs/ and docs/project/ that the front page does not name."""
    named = (DOCS / "index.md").read_text(encoding="utf-8").splitlines()
    paths = [*sorted(DOCS.glob("*.md")), *(DOCS / "project" / f"{name.lower()}.md" for name in present())]
    pages = (path.relative_to(DOCS).with_suffix("").as_posix() for path in paths)
    return "\n".join(page for page in pages if page != "index" and page not in named)


def present() -> list[str]:
    """Which of the checkout's own texts, shown as pages too, are there."""
    return [name for name in ("CHANGELOG", "CONTRIBUTING") if (DOCS.parent / f"{name}.md").is_file()]


WRITERS: dict[str, Callable[[], str]] = {
    "commands": commands,
    "settings": settings,
    "presets": presets,
    "further": further,
}


def fill(_app: Sphinx, _page: str, source: list[str]) -> None:
    """Puts the generated parts into a page that asks for them."""
    source[0] = MARK.sub(lambda found: WRITERS[found[1]](), source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the extension with Sphinx."""
    app.connect("source-read", fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

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
from tyro.conf import Suppress

from maxsearch.cli import COMMANDS, OF_PRESETS, with_preset
from maxsearch.config import Config
from maxsearch.presets import configs_folder, load_preset, preset_names

DOCS = Path(__file__).parent.parent
MARK = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)
CODE = re.compile(r"(`[^`]*`|(?<![\w-])--[a-z][\w.-]*\w)")
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
        if isinstance(action.choices, dict):
            for name, part in action.choices.items():
                yield from command(f"{title} {name}", part, level + 1)
        elif action.dest != "help" and not (preset_flags and of_config(action)):
            yield flag(action)
    if preset_flags:
        yield "And every value of the [config](config.md), by the flag named there; the preset gives the defaults."


def of_config(action: argparse.Action) -> bool:
    """Whether a flag is a value of the config: --model.dim, --seed."""
    hints = typing.get_type_hints(Config)
    own = {f"--{name}" for name, hint in hints.items() if not dataclasses.is_dataclass(hint)}
    return any("." in word or word in own for word in action.option_strings)


def flag(action: argparse.Action) -> str:
    """A flag as an entry of a definition list."""
    names = ", ".join(f"`{word}`" for word in action.option_strings)
    head = f"{names} `{action.metavar}`" if action.metavar and names else names or f"`{action.metavar}`"
    told = action.help or ""
    found = DEFAULT.search(told)
    text = " ".join(prose(told[: found.start()] if found else told).split())
    if found and found["value"] is None:
        text += " **Required.**"
    elif found and found["value"].strip() not in ("", "None", "''", "False"):
        text += f" Default: `{found['value']}`."
    return f"{head}\n: {text.strip()}"


def prose(text: str) -> str:
    """A help text or docstring as Markdown: flags become code, and what Markdown would read otherwise is kept."""
    parts = CODE.split(inspect.cleandoc(text))
    for place, part in enumerate(parts):
        if place % 2 == 0:
            parts[place] = re.sub(r"([*_<\[\]|])", r"\\\1", part)
        elif not part.startswith("`"):
            parts[place] = f"`{part}`"
    return "".join(parts)


def settings() -> str:
    """Every dataclass of the config: what it says of itself, and its fields."""
    return "\n\n".join(part for path, kind in parts_of(Config, "") for part in section(path, kind))


def parts_of(kind: type, path: str) -> Iterator[tuple[str, type]]:
    """(path, dataclass) of a config and all below it, in the order of the flags; of what there are several, path[]."""
    yield path, kind
    for name, hint in shown_hints(kind).items():
        for inner in (hint, *typing.get_args(hint)):
            if isinstance(inner, type) and dataclasses.is_dataclass(inner):
                yield from parts_of(inner, f"{path}{name}." if inner is hint else f"{path}{name}[].")


def shown_hints(kind: type) -> dict[str, Any]:
    """The types of a dataclass's fields, without those that are no flags."""
    marked = typing.get_type_hints(kind, include_extras=True)
    return {
        name: hint
        for name, hint in typing.get_type_hints(kind).items()
        if Suppress not in getattr(marked[name], "__metadata__", ())
    }


def section(path: str, kind: type) -> Iterator[str]:
    """A heading, the prose of the docstring, and the table of the fields that are values."""
    said, told = documented(kind)
    yield f"## {f'`{path[:-1]}`: ' if path else ''}{kind.__name__}"
    yield prose(said)
    hints = shown_hints(kind)
    shown = [one for one in dataclasses.fields(kind) if one.name in hints]
    values = [one for one in shown if not dataclasses.is_dataclass(hints[one.name])]
    head = ["field" if "[]" in path else "flag", "type", "default"] + ["what"] * bool(told)
    rows = [head, ["---"] * len(head)]
    for one in values:
        several = any(map(dataclasses.is_dataclass, typing.get_args(hints[one.name])))
        name = one.name if several or "[]" in path else f"--{path}{one.name}".replace("_", "-")
        cells = [code(name), code(type_name(hints[one.name])), default_of(one, several)]
        rows.append(cells + [prose(told.get(one.name, ""))] * bool(told))
    yield "\n".join(f"| {' | '.join(row)} |" for row in rows)


def documented(kind: type) -> tuple[str, dict[str, str]]:
    """A docstring's prose, and what its Attributes section says of each field."""
    said, _, attributes = inspect.cleandoc(kind.__doc__ or "").partition("\nAttributes:\n")
    order = [one.name for one in dataclasses.fields(kind)]
    told: dict[str, str] = {}
    for entry in re.split(r"\n(?=\S)", textwrap.dedent(attributes).strip("\n")):
        names, _, text = (" ".join(entry.split())).partition(": ")
        first, _, last = names.partition(" ... ")
        meant = order[order.index(first) : order.index(last) + 1] if last else names.split(", ")
        told |= dict.fromkeys(filter(None, meant), text)
    return said, told


def code(text: str) -> str:
    """A value as code in a cell of a table."""
    return "`" + text.replace("|", "\\|") + "`"


def type_name(hint: Any) -> str:
    """A type as a reader writes it."""
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(map(str, typing.get_args(hint)))
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else re.sub(r"\w+\.", "", str(hint))


def default_of(one: dataclasses.Field[Any], several: bool) -> str:
    """The value that a field has unless given; of several dataclasses their number."""
    if one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING:
        return "required"
    value = one.default if one.default_factory is dataclasses.MISSING else one.default_factory()
    return f"{len(value)} of them" if several else code(repr(value) if value != "" else '""')


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
    paths = sorted({*DOCS.glob("*.md"), *DOCS.glob("project/*.md")} - {DOCS / page for page in absent()})
    pages = (path.relative_to(DOCS).with_suffix("").as_posix() for path in paths)
    return "\n".join(page for page in pages if page != "index" and page not in named)


def absent() -> list[str]:
    """Pages that show a text from the top of the checkout which is not there."""
    pages = (DOCS / "project").glob("*.md")
    return [f"project/{page.name}" for page in pages if not (DOCS.parent / page.name).is_file()]


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

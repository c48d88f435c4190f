"""Explanations and the pointing game on the terminal."""

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from maxsearch.explain.explanation import Explanation, HeatMap
from maxsearch.explain.wording import MAP_TITLES, NO_PICTURE, addends, effects, kinds

FIGURES = ("pointing", "best fixed", "chance")


def print_explanation(one: Explanation, console: Console | None = None) -> None:
    """Prints what adds up to the score, what each word does, and where maps have their peaks.

    Args:
      one: what is told.
      console: where to print; standard output when None.
    """
    console = console or Console()
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False, title=None)
    table.add_column("share of the score")
    table.add_column("points", justify="right")
    for name, value in addends(one):
        table.add_row(name, f"{value:+.3f}", style="bold" if name == "score" else "")
    for word, value in effects(one):
        table.add_row(Text(f"without {word!r}"), f"{-value:+.3f}", style="dim")
    console.print()
    console.print(Text(f"{one.query!r} and {one.product_id} {one.title!r}"), soft_wrap=True)
    console.print(table)
    lines = ["weights: title {:.2f}, image {:.2f}".format(*one.contributions.weights)]
    if one.contributions.parts:
        lines.append("summed in the vector: " + ", ".join(f"{n} {v:+.3f}" for n, v in one.contributions.parts))
    if not one.maps:
        lines.append(NO_PICTURE)
    for key, group in kinds(one.maps):
        lines.append(f"{MAP_TITLES[key][0]}: {', '.join(map(_peak, group))}")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _peak(one: HeatMap) -> str:
    rows, columns = len(one.values), len(one.values[0])
    flat = [value for row in one.values for value in row]
    row, column = divmod(flat.index(one.peak), columns)
    return f"{one.word} {one.peak:.3f} (row {row + 1} of {rows}, column {column + 1} of {columns})"


def print_pointing(figures: dict[str, Any], console: Console | None = None) -> None:
    """Prints a line per kind of map.

    Args:
      figures: what `play` gives.
      console: where to print; standard output when None.
    """
    console = console or Console()
    table = Table("map", *FIGURES, "words", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for kind, values in figures["maps"].items():
        table.add_row(kind, *(f"{values[name]:.3f}" for name in FIGURES), f"{values['words']:,}")
    console.print(table)
    console.print(f"{figures['products']:,} products.", highlight=False)

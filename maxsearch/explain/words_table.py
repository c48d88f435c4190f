"""What an aligner sees, as a table for people."""

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

SYSTEMS = ("aligner", "raw cosine", "most frequent", "chance")


def print_report(report: dict[str, Any], console: Console | None = None) -> None:
    """Prints a line per figure and a column per system, then the words of a few products.

    Args:
      report: what `picture_words` gives.
      console: where to print; standard output when None.
    """
    console = console or Console()
    table = Table("named", "figure", box=SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
    for name in SYSTEMS:
        table.add_column(name, justify="right", no_wrap=True)
    parts = {name: part["systems"] for name, part in report["attributes"].items()} | {"any": report["together"]}
    for name, systems in parts.items():
        for metric in systems.get(SYSTEMS[0], {}):
            table.add_row(name, metric, *(f"{systems[system][metric]:.3f}" for system in SYSTEMS))
    if report["pointing"]:
        shown = (report["pointing"].get(system) for system in SYSTEMS)
        table.add_row("title words", "pointing", *("" if value is None else f"{value:.3f}" for value in shown))
    console.print(table)
    lines = [f"{report['products']:,} products with a picture, {report['vocabulary']:,} keywords."]
    lines += [f"{one['product_id']} {one['title']!r}: {', '.join(one['words'])}" for one in report["examples"]]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

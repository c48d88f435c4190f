"""Search results for people and for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from maxsearch.serving.search import Hit


def print_hits(hits: Sequence[Hit], *, as_json: bool = False, console: Console | None = None) -> None:
    """Prints ranked products with their scores.

    Args:
      hits: best first.
      as_json: one JSON object a line, in place of a table.
      console: where to print; standard output when None.
    """
    console = console or Console()
    if as_json:
        for hit in hits:
            console.print(json.dumps(asdict(hit), ensure_ascii=False), markup=False, highlight=False, soft_wrap=True)
        return
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for name in ("rank", "score", "product"):
        table.add_column(name, justify="right")
    table.add_column("title and attributes")
    for hit in hits:
        attributes = ", ".join(f"{name} {value}" for name, value in hit.attributes.items() if value)
        text = Text(hit.title)
        if attributes:
            text.append(f"\n{attributes}", style="dim")
        table.add_row(str(hit.rank), f"{hit.score:.3f}", Text(hit.product_id), text)
    console.print(table)

"""The figures of captioned pictures and of same-style products as tables for people, and as JSON."""

from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from maxsearch.evaluation import captions, same_style
from maxsearch.evaluation.bootstrap import Interval
from maxsearch.evaluation.captions import MEDIAN, RSUM, CaptionFigures
from maxsearch.evaluation.same_style import SameStyleFigures


def print_captions(figures: CaptionFigures, console: Console | None = None) -> None:
    """Prints a line per direction, the sum of recalls, and what was counted and left out."""
    console = console or Console()
    recalls = [f"r@{cut}" for cut in captions.CUTS]
    table = _table("direction", [*(name.upper() for name in recalls), MEDIAN])
    for direction, metrics in figures.directions.items():
        median = cell(metrics[MEDIAN], digits=1)
        table.add_row(Text(direction), *(cell(metrics[name]) for name in recalls), median)
    console.print(table)
    counts = figures.counts
    console.print(f"{RSUM} {cell(figures.rsum, digits=1)}".replace("\n", ", "), highlight=False)
    folds = figures.settings["folds"]
    lines = [
        f"{counts['captions']:,} captions of {counts['images']:,} pictures"
        + (f" in {folds} folds" if folds > 1 else "")
        + f", read by the {figures.settings['text_encoder']} tower; below each figure its 95 % bootstrap interval over "
        "pictures.",
        *_left_out(
            counts,
            {
                "images_without_captions": "{:,} pictures have no caption; they are ranked, and ask nothing.",
                "captions_beyond_the_first": "{:,} captions beyond a picture's first were left out.",
                "captions_empty": "{:,} captions have no text and were left out.",
                "captions_of_other_images": "{:,} captions of pictures that are not there were left out.",
                "captions_of_products_without_image": "{:,} captions of products without a picture were left out.",
                "products_without_image": "{:,} products have no picture and were left out.",
            },
        ),
    ]
    _print_lines(console, lines)


def print_same_style(figures: SameStyleFigures, console: Console | None = None) -> None:
    """Prints a line per direction, and what was counted and left out."""
    console = console or Console()
    table = _table("direction", ["MRR", "R@1", "R@10", "queries"])
    for direction, metrics in figures.directions.items():
        cells = ["-"] * 3 if metrics is None else [cell(metrics[name]) for name in same_style.METRICS]
        table.add_row(Text(direction), *cells, f"{figures.queries[direction]:,}")
    console.print(table)
    counts = figures.counts
    lines = [
        f"{counts['queries']:,} of {counts['products_with_same_style']:,} products that have same-style ones rank the "
        f"other {counts['products'] - 1:,}; m is the fused vector, t the text's, v the pictures'. Below each figure its"
        " 95 % bootstrap interval.",
        *_left_out(
            counts,
            {
                "pairs_of_other_products": "{:,} pairs of products that are not in the catalogue were left out.",
                "pairs_of_a_product_with_itself": "{:,} pairs of a product with itself were left out.",
            },
        ),
    ]
    _print_lines(console, lines)


def captions_json(figures: CaptionFigures) -> dict[str, Any]:
    """The figures as plain JSON values."""
    return {"schema_version": captions.SCHEMA_VERSION, "kind": "maxsearch-captions", **asdict(figures)}


def same_style_json(figures: SameStyleFigures) -> dict[str, Any]:
    """The figures as plain JSON values."""
    return {"schema_version": same_style.SCHEMA_VERSION, "kind": "maxsearch-same-style", **asdict(figures)}


def cell(interval: Interval, digits: int = 3) -> str:
    """A figure over its interval."""
    return f"{interval.mean:.{digits}f}\n{interval.low:.{digits}f}-{interval.high:.{digits}f}"


def _table(corner: str, columns: list[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
    table.add_column(corner)
    for column in columns:
        table.add_column(Text(column), justify="right", no_wrap=True)
    return table


def _left_out(counts: dict[str, Any], sentences: dict[str, str]) -> list[str]:
    lines = [sentence.format(counts[name]) for name, sentence in sentences.items() if counts[name]]
    if counts["products_rejected"]:
        reasons = ", ".join(f"{code} {count:,}" for code, count in counts["products_rejected"].items())
        lines.append(f"Rows of the products file that could not be used: {reasons}.")
    return lines


def _print_lines(console: Console, lines: list[str]) -> None:
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

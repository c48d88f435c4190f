"""An evaluation as a table for people."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from maxsearch.evaluation.metrics import METRICS, Interval
from maxsearch.evaluation.results import Evaluation
from maxsearch.evaluation.weights import WeightRow

TITLES = {"ndcg@10": "nDCG@10", "recall@10": "recall@10", "recall@100": "recall@100", "mrr": "MRR"}
UNLIMITED = 100_000
MOST_VALUES = 20


def print_table(evaluation: Evaluation, console: Console | None = None) -> None:
    """Prints each system's mean and 95 % interval per metric, then what was counted and left out.

    One line per metric; where so many systems do not fit the console side by side, one line per system.

    Args:
      evaluation: the figures.
      console: where to print; standard output when None.
    """
    console = console or Console()
    cells = [[cell(row.metrics[metric]) for metric in METRICS] for row in evaluation.rows]
    names = [row.name for row in evaluation.rows]
    metrics = [TITLES[metric] for metric in METRICS]
    wrapped = [name.replace(", ", ",\n") for name in names]
    table = _table("metric", wrapped, metrics, [list(line) for line in zip(*cells, strict=True)])
    if Measurement.get(console, console.options.update(max_width=UNLIMITED), table).maximum > console.width:
        table = _table("system", metrics, names, cells)
    console.print(table)
    for line in notes(evaluation):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if evaluation.weights is not None:
        print_weights(evaluation.weights, console)


def print_weights(rows: Sequence[WeightRow], console: Console) -> None:
    """Prints the mean weights of title and image for the values that most products have."""
    lines = [row.value or "(none)" for row in rows[:MOST_VALUES]]
    cells = [[f"{row.products:,}", f"{row.title:.3f}", f"{row.image:.3f}"] for row in rows[:MOST_VALUES]]
    console.print(_table("value", ["products", "title weight", "image weight"], lines, cells))
    if len(rows) > MOST_VALUES:
        console.print(f"{len(rows) - MOST_VALUES:,} rarer values are in the JSON of --out.", highlight=False)


def _table(corner: str, columns: list[str], lines: list[str], cells: list[list[str]]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
    table.add_column(corner)
    for column in columns:
        table.add_column(Text(column), justify="right", no_wrap=True)
    for line, values in zip(lines, cells, strict=True):
        table.add_row(Text(line), *values)
    return table


def cell(interval: Interval) -> str:
    """A mean over its interval: "0.672" above "0.650-0.693"."""
    return f"{interval.mean:.3f}\n{interval.low:.3f}-{interval.high:.3f}"


def notes(evaluation: Evaluation) -> list[str]:
    """What the figures rest on, in sentences."""
    counts, settings = evaluation.counts, evaluation.settings
    lines = [
        f"{counts['queries_evaluated']:,} queries over {counts['products']:,} products; below each mean its 95 % "
        f"bootstrap interval. nDCG gain {settings['gain']}; relevant from grade {settings['relevant_grade']}; "
        f"{settings['k']} ranks."
    ]
    left_out = {
        "queries_without_judgments": "{:,} queries are not judged and were left out.",
        "queries_without_relevant_product": "{:,} queries have no relevant product in the catalogue and were left out.",
        "queries_without_text": "{:,} queries have no text and were left out.",
        "judged_queries_not_in_queries_file": "{:,} judged queries are not in the queries file and were left out.",
        "judgments_of_products_not_in_catalogue": "{:,} judgments of products outside the catalogue do not count.",
    }
    lines += [sentence.format(counts[name]) for name, sentence in left_out.items() if counts[name]]
    if counts["products_rejected"]:
        reasons = ", ".join(f"{code} {count:,}" for code, count in counts["products_rejected"].items())
        lines.append(f"Rows of the products file that could not be used: {reasons}.")
    lines += [
        f"{row.name} ranks nothing for {row.missing_queries:,} of the queries; they score 0."
        for row in evaluation.rows
        if row.missing_queries
    ]
    return lines

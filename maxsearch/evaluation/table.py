"""An evaluation as tables for people, which stay readable at 80 columns."""

from collections import Counter
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from maxsearch.evaluation.bootstrap import Interval
from maxsearch.evaluation.metrics import METRICS
from maxsearch.evaluation.results import Evaluation, SliceRow
from maxsearch.evaluation.weights import WeightRow

TITLES = {
    "ndcg@10": "nDCG@10",
    "recall@10": "recall@10",
    "recall@100": "recall@100",
    "precision@10": "precision@10",
    "hit@10": "hit@10",
    "relevance@10": "relevance@10",
    "mrr": "MRR",
    "map": "MAP",
    "auc": "AUC",
}
MAIN = ("recall@100", "mrr", "auc")  # beside nDCG@10
NOTHING = "-"
MOST_VALUES = 20
NAME_WIDTH = 22
INTERVAL_WIDTH = 13
SYSTEM_WIDTH = 10


def print_table(
    evaluation: Evaluation, console: Console | None = None, *, all_metrics: bool = False, slices: bool = False
) -> None:
    """Prints a line per system, then what was counted and left out, and the warnings in yellow.

    Args:
      evaluation: the figures.
      console: where to print; standard output when None.
      all_metrics: whether every metric is printed with its interval, after the line of the main ones.
      slices: whether the slices are printed.
    """
    console = console or Console()
    console.print(_main(evaluation))
    if all_metrics:
        for table in _all_metrics(evaluation, console.width):
            console.print(table)
    if slices:
        for table in _slices(evaluation, console.width):
            console.print(table)
    for line in notes(evaluation, slices=slices):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if evaluation.weights is not None:
        print_weights(evaluation.weights, console)
    for warning in evaluation.warnings:
        console.print(f"warning: {warning.message}", style="bold yellow", highlight=False, markup=False, soft_wrap=True)


def print_weights(rows: Sequence[WeightRow], console: Console) -> None:
    """Prints the mean weights of title and image for the values that most products have."""
    table = _table("value", ["products", "title weight", "image weight"])
    for row in rows[:MOST_VALUES]:
        table.add_row(Text(row.value or "(none)"), f"{row.products:,}", f"{row.title:.3f}", f"{row.image:.3f}")
    console.print(table)
    if len(rows) > MOST_VALUES:
        console.print(f"{len(rows) - MOST_VALUES:,} rarer values are in the JSON of --out.", highlight=False)


def _main(evaluation: Evaluation) -> Table:
    p_values = {one.system: one.p_corrected for one in evaluation.comparisons if one.metric == "ndcg@10"}
    table = _table("system", ["nDCG@10 (95 %)", "p", *(TITLES[metric] for metric in MAIN)])
    for row in evaluation.rows:
        first = row.metrics["ndcg@10"]
        p = p_values.get(row.name)
        table.add_row(
            Text(row.name),
            NOTHING if first is None else f"{first.mean:.3f} {first.low:.3f}-{first.high:.3f}",
            NOTHING if p is None else p_value(p),
            *(mean(row.metrics[metric]) for metric in MAIN),
        )
    return table


def _all_metrics(evaluation: Evaluation, width: int) -> list[Table]:
    """Every metric over its interval, in as many tables as the width asks for."""
    most = max(1, (width - NAME_WIDTH - 1) // INTERVAL_WIDTH)
    count = -(-len(METRICS) // -(-len(METRICS) // most))
    tables = []
    for start in range(0, len(METRICS), count):
        metrics = METRICS[start : start + count]
        table = _table("system", [TITLES[metric] for metric in metrics])
        for row in evaluation.rows:
            table.add_row(Text(row.name), *(cell(row.metrics[metric]) for metric in metrics))
        tables.append(table)
    return tables


def _slices(evaluation: Evaluation, width: int) -> list[Table]:
    """nDCG@10 of each system on the parts of every slicing, in as many tables as the width asks for."""
    parts: dict[str, list[SliceRow]] = {}
    for row in evaluation.slices:
        parts.setdefault(row.slice, []).append(row)
    tables = []
    for slicing, rows in parts.items():
        if len(rows) == 1:
            continue  # the whole again
        for names in _side_by_side([row.name for row in evaluation.rows], width - NAME_WIDTH - len("queries") - 3):
            table = _table(f"{slicing}\n(of {rows[0].of})", ["queries"])
            for name in names:
                table.add_column(Text(name), justify="right", max_width=SYSTEM_WIDTH, overflow="fold")
            for row in rows:
                queries = f"{row.queries:,}{'*' if row.few else ''}"
                table.add_row(Text(row.value), queries, *(_with_margin(row.systems.get(name)) for name in names))
            tables.append(table)
    return tables


def _side_by_side(names: Sequence[str], width: int) -> list[list[str]]:
    """The systems in groups that fit."""
    groups: list[list[str]] = [[]]
    left = width
    for name in names:
        needed = min(SYSTEM_WIDTH, max(map(len, [*name.split(), "±0.000"]))) + 2
        if needed > left and groups[-1]:
            groups.append([])
            left = width
        groups[-1].append(name)
        left -= needed
    return groups


def _table(corner: str, columns: Sequence[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
    table.add_column(Text(corner), max_width=NAME_WIDTH, overflow="fold")
    for column in columns:
        table.add_column(Text(column), justify="right", no_wrap=True)
    return table


def cell(interval: Interval | None) -> str:
    """A mean over its interval: "0.672" above "0.650-0.693"."""
    return NOTHING if interval is None else f"{interval.mean:.3f}\n{interval.low:.3f}-{interval.high:.3f}"


def _with_margin(interval: Interval | None) -> str:
    return NOTHING if interval is None else f"{interval.mean:.3f}\n±{(interval.high - interval.low) / 2:.3f}"


def mean(interval: Interval | None) -> str:
    """The mean alone."""
    return NOTHING if interval is None else f"{interval.mean:.3f}"


def p_value(p: float) -> str:
    """A p-value in three digits."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def notes(evaluation: Evaluation, *, slices: bool = False) -> list[str]:
    """What the figures rest on, in sentences.

    Args:
      evaluation: the figures.
      slices: whether those of the slices are among them.
    """
    counts, settings = evaluation.counts, evaluation.settings
    lines = [
        f"{counts['queries_evaluated']:,} queries over {counts['products']:,} products; beside or below each mean its "
        f"95 % bootstrap interval. nDCG gain {settings['gain']}; relevant from grade {settings['relevant_grade']}; "
        f"{settings['k']} ranks. p is that of the difference to ours in nDCG, by a paired randomisation test, "
        f"corrected for the number of systems (Holm)."
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
    if settings["auc"]["negatives"] == "drawn":
        lines.append(
            "No judgment is below the relevant grade: AUC takes products that are judged for other queries, drawn at "
            "random, for irrelevant ones."
        )
    if slices:
        lines += _slice_notes(evaluation.slices)
    return lines


def _slice_notes(rows: Sequence[SliceRow]) -> list[str]:
    lines = ["Slices show nDCG@10 over half the width of its 95 % interval."]
    if any(row.of == "products" for row in rows):
        lines.append(
            "In a slice of products, the relevant products outside it are taken out of rankings and judgments; they "
            "neither help nor harm."
        )
    if any(row.few for row in rows):
        lines.append("* marks slices of too few queries to say much.")
    alike = [name for name, count in Counter(row.slice for row in rows).items() if count == 1]
    if alike:
        lines.append(f"One part only, and so no table: {', '.join(alike)}.")
    cut = max((row.left_out for row in rows), default=0)
    if cut:
        lines.append(
            f"Up to {cut:,} queries are left out of a slice of products, for a system's ranks end before ten are left."
        )
    return lines

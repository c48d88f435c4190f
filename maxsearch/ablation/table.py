"""An ablation as a table, in Markdown and on a terminal."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from maxsearch.ablation.results import METRICS, Results, RungResult
from maxsearch.evaluation.table import TITLES

NOTHING = "-"
COLUMNS_OF_METRIC = 3


def headers() -> list[str]:
    """The columns of the table."""
    figures = [column for metric in METRICS for column in (f"{TITLES[metric]} (sd)", "difference (95 %)", "p")]
    return ["rung", "against", *figures, "seeds", "minutes"]


def cells(result: RungResult, results: Results) -> list[str]:
    """One rung's line, in the order of `headers`."""
    line = [result.rung.name, result.rung.against or NOTHING]
    for metric in METRICS:
        if not result.means:
            line += [NOTHING] * COLUMNS_OF_METRIC
            continue
        spread = result.spread(metric)
        line.append(f"{result.means[metric].mean:.3f}" + (f" ({spread:.3f})" if spread is not None else ""))
        if not result.differences:
            line += [NOTHING] * (COLUMNS_OF_METRIC - 1)
            continue
        found = result.differences[metric]
        line += [f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})", p_value(found.p)]
    done, wanted = len(result.seeds), len(results.plan.seeds)
    minutes = f"{sum(result.minutes) / done:.1f}" if done else NOTHING
    return [*line, str(done) if done == wanted else f"{done} of {wanted}", minutes]


def p_value(p: float) -> str:
    """A p-value in three digits."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def notes(results: Results) -> list[str]:
    """What the table rests on, in sentences."""
    lines = []
    if results.queries:
        lines.append(
            f"{results.queries:,} queries over {results.products:,} products, seeds "
            f"{', '.join(map(str, results.plan.seeds))}; means over seeds, sd between them. Differences are to the "
            f"rung under `against`, query by query and seed by seed, with 95 % paired bootstrap intervals over queries "
            f"and p-values of a paired randomisation test, not corrected for their number (ablation.json has both). "
            f"Minutes are of training."
        )
    for result in results.rungs:
        alone = {"title": "the title's vector alone", "image": "the image's vector alone"}.get(result.rung.part)
        if result.run != result.rung.name:
            ranked = f", ranked by {alone}" if alone else ""
            lines.append(f"{result.rung.name}: the runs of {result.run}{ranked}.")
        elif alone:
            lines.append(f"{result.rung.name}: ranked by {alone}.")
        if result.rung.data:
            lines.append(f"{result.rung.name}: trained on {results.plan.data[result.rung.data]}.")
    lines += [f"{run} failed: {why}" for run, why in results.failed.items()]
    return lines


def markdown(results: Results) -> str:
    """The table, then the notes."""
    rows = [headers(), *(cells(result, results) for result in results.rungs)]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    lines.insert(1, "|" + "|".join(["---"] * 2 + ["---:"] * (len(rows[0]) - 2)) + "|")
    return "\n".join([*lines, "", *(line for note in notes(results) for line in (note, ""))][:-1]) + "\n"


def print_table(results: Results, console: Console | None = None) -> None:
    """Prints the table, without the differences of the second metric, and the notes.

    Args:
      results: the figures.
      console: where to print; standard output when None.
    """
    console = console or Console()
    second = 2 + COLUMNS_OF_METRIC
    shown = [number for number in range(len(headers())) if number not in range(second + 1, second + COLUMNS_OF_METRIC)]
    table = Table(box=SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
    for number in shown:
        header = Text(headers()[number].replace(" (", "\n("))
        table.add_column(header, justify="right" if number > 1 else "left", no_wrap=number > 1)
    for result in results.rungs:
        line = cells(result, results)
        table.add_row(*(Text(line[number].replace(" (", "\n(") if number > 1 else line[number]) for number in shown))
    console.print(table)
    for note in notes(results):
        console.print(note, highlight=False, markup=False, soft_wrap=True)

"""The figures as tables on a terminal."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from maxsearch.datastats.report import DatasetFigures, Leakage, Report
from maxsearch.datastats.wording import SPREAD_COLUMNS, product_name, shared_names, spread_cells
from maxsearch.html.words import number, percent


def print_report(report: Report, console: Console | None = None) -> None:
    """Prints the datasets side by side, then each one's spreads and duplicates, then what each pair shares.

    Args:
      report: the figures.
      console: where to print; standard output when None.
    """
    console = console or Console()
    _print(console, "", [one.name for one in report.datasets], overview(report.datasets))
    for one in report.datasets:
        if len(report.datasets) > 1:
            _say(console, one.name)
        _print(console, "", SPREAD_COLUMNS, spreads(one))
        _print(console, "duplicates", ("groups", "products", "share", "largest group"), duplicates(one))
        for kind in one.repeats:
            for group in kind.examples[:1]:
                _say(console, f"{kind.what}: {', '.join(product_name(report, one.name, at) for at in group)}")
    for pair in report.leakage:
        _say(console, f"\n{pair.first} and {pair.second}")
        _print(console, "in both", ("distinct", "of the first", "of the second"), leaks(pair))
        for shared in pair.shared:
            for name in shared_names(report, pair.first, pair.second, shared):
                _say(console, f"{shared.what}: {name}")
    for note in report.notes:
        _say(console, note)


def overview(datasets: Sequence[DatasetFigures]) -> list[tuple[str, list[str]]]:
    """Lines of one figure per dataset."""
    lines = [(name, [number(one.counts[name]) for one in datasets]) for name in datasets[0].counts]
    lines.append(("clicks (sum of weights)", [number(one.clicks) for one in datasets]))
    for kind in datasets[0].concentration:
        parts = [one.concentration[kind] for one in datasets]
        for title, field in (("top 1 %", "top_1_percent"), ("top 10 %", "top_10_percent")):
            cells = ["-" if part is None else percent(getattr(part, field)) for part in parts]
            lines.append((f"{kind}: share of the {title}", cells))
        lines.append((f"{kind}: Gini", ["-" if part is None else f"{part.gini:.3f}" for part in parts]))
    for what in dict.fromkeys(name for one in datasets for name in one.cut):
        cells = [percent(one.cut[what]) if what in one.cut else "-" for one in datasets]
        lines.append((f"{what} texts longer than the model reads", cells))
    for name in dict.fromkeys(name for one in datasets for name in one.formats):
        lines.append((f"images in {name}", [number(one.formats.get(name, 0)) for one in datasets]))
    lines.append(("commonest image size", [_commonest(one) for one in datasets]))
    return lines


def spreads(one: DatasetFigures) -> list[tuple[str, list[str]]]:
    """Lines of spreads, without those of nothing."""
    pictures = {name if " " in name else f"image {name}": values for name, values in one.pictures.items()}
    named = one.lengths | pictures | one.activity
    return [(name, spread_cells(values)) for name, values in named.items() if values is not None]


def duplicates(one: DatasetFigures) -> list[tuple[str, list[str]]]:
    """Lines of duplicates."""
    return [
        (kind.what, [number(kind.groups), number(kind.products), percent(kind.share), number(kind.largest)])
        for kind in one.repeats
    ]


def leaks(pair: Leakage) -> list[tuple[str, list[str]]]:
    """Lines of what a pair shares."""
    lines = []
    for kind in pair.shared:
        second = f"{number(kind.second)} ({percent(kind.second_share)})"
        if kind.second_weight_share is not None:
            second += f", {percent(kind.second_weight_share)} of its clicks"
        lines.append((kind.what, [number(kind.values), f"{number(kind.first)} ({percent(kind.first_share)})", second]))
    return lines


def _commonest(one: DatasetFigures) -> str:
    if not one.sizes:
        return "-"
    width, height, count = one.sizes[0]
    return f"{width} x {height} ({percent(count / one.counts['images'])})"


def _print(console: Console, corner: str, columns: Sequence[str], lines: list[tuple[str, list[str]]]) -> None:
    table = Table(box=SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
    table.add_column(corner)
    for column in columns:
        table.add_column(Text(column), justify="right")
    for name, cells in lines:
        table.add_row(Text(name), *(Text(cell) for cell in cells))
    console.print(table)


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)

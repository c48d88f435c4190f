"""Figures in words, alike on the terminal and on the page."""

from maxsearch.datastats.repeats import Shared
from maxsearch.datastats.report import Report
from maxsearch.datastats.spread import Bar, Spread
from maxsearch.html.words import number, short

SPREAD_COLUMNS = ("mean", "min", "p10", "median", "p90", "p99", "max")


def spread_cells(values: Spread) -> list[str]:
    """One cell for each of SPREAD_COLUMNS."""
    return [number(getattr(values, name)) for name in SPREAD_COLUMNS]


def interval(bar: Bar, *, last: bool) -> str:
    """What a bar of whole numbers counts, such as "3", "4-7" or, for the last of a long tail, "40+"."""
    if bar.high - bar.low <= 1:
        return number(bar.low)
    return f"{number(bar.low)}+" if last else f"{number(bar.low)}-{number(bar.high - 1)}"


def product_name(report: Report, dataset: str, position: int) -> str:
    """A product that an example names: its identifier and title."""
    product_id, title = report.examples[dataset]["products"][position]
    return f"{short(product_id)} {short(title)!r}" if title else f"{short(product_id)} (no title)"


def shared_names(report: Report, first: str, second: str, kind: Shared) -> list[str]:
    """The examples of what two datasets share."""
    if kind.what == "queries":
        return [repr(short(report.examples[second]["interactions"][theirs])) for _, theirs in kind.examples]
    pairs = ((product_name(report, first, a), product_name(report, second, b)) for a, b in kind.examples)
    return [ours if ours == theirs else f"{ours} = {theirs}" for ours, theirs in pairs]

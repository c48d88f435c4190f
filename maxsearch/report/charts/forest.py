"""Means with their intervals, one line each, as a table whose middle column is drawn on a common axis."""

from collections.abc import Sequence
from dataclasses import dataclass

from maxsearch.html.markup import text
from maxsearch.report.charts.marks import key, marker
from maxsearch.report.charts.scale import Scale, short_number
from maxsearch.report.inputs.shapes import Interval

MINUS = "\u2212"


@dataclass(frozen=True)
class Line:
    """One line.

    Attributes:
      name: what it is of; plain text.
      interval: what is drawn and written.
      style: marker and colour.
      note: HTML behind the numbers.
      hollow: draws the marker empty, for what may be chance.
    """

    name: str
    interval: Interval
    style: int = 0
    note: str = ""
    hollow: bool = False


@dataclass(frozen=True)
class Group:
    """Lines below a heading, which is HTML; no heading when it is empty."""

    lines: Sequence[Line]
    heading: str = ""


def forest(
    groups: Sequence[Group], label: str, *, corner: str = "", signed: bool = False, scale: Scale | None = None
) -> str:
    """A table of intervals.

    Args:
      groups: the lines, in order.
      label: what is measured, as the heading of the axis.
      corner: the heading of the names.
      signed: whether the values are differences: they get a sign and the axis a line at 0.
      scale: the axis; by default one that holds every interval.
    """
    every = [line.interval for group in groups for line in group.lines]
    if not every:
        return ""
    scale = scale or Scale.around([end for one in every for end in (one.low, one.high)], zero=signed)
    ticks = scale.ticks()
    body = []
    for group in groups:
        if group.heading:
            body.append(f'<tr class="heading"><th colspan="3" scope="rowgroup">{group.heading}</th></tr>')
        body += [_row(line, scale, ticks, signed=signed) for line in group.lines]
    axis = "".join(
        f'<text x="{100 * scale.at(tick):.2f}%" y="13" text-anchor="{_anchor(scale.at(tick))}">'
        f"{short_number(tick)}</text>"
        for tick in ticks
    )
    return (
        f'<table class="forest"><thead><tr><th scope="col">{text(corner)}</th><th scope="col">{text(label)}</th>'
        f'<th scope="col">mean, 95 % interval</th></tr></thead><tbody>{"".join(body)}</tbody>'
        f'<tfoot aria-hidden="true"><tr><td></td><td class="strip"><svg>{axis}</svg></td><td></td></tr></tfoot></table>'
    )


def said(interval: Interval, *, signed: bool = False) -> str:
    """A mean and its interval as HTML."""
    mean, low, high = (figure(value, signed=signed) for value in (interval.mean, interval.low, interval.high))
    return f'<b>{mean}</b> <span class="soft">{low} to {high}</span>'


def figure(value: float, *, signed: bool = False) -> str:
    """A value in three digits behind the point."""
    return f"{value:{'+' if signed else ''}.3f}".replace("-", MINUS)


def _row(line: Line, scale: Scale, ticks: Sequence[float], *, signed: bool) -> str:
    one = line.interval
    low, mean, high = (f"{100 * scale.at(value):.2f}%" for value in (one.low, one.mean, one.high))
    grid = "".join(
        f'<line class="{"zero" if signed and tick == 0 else "grid"}" x1="{at}" x2="{at}" y1="0" y2="100%"/>'
        for tick in ticks
        for at in (f"{100 * scale.at(tick):.2f}%",)
    )
    words = (figure(value, signed=signed) for value in (one.mean, one.low, one.high))
    label = text("{}: {}, from {} to {}".format(line.name, *words), isolate=False)
    drawn = (
        f'<svg role="img" aria-label="{label}">{grid}'
        f'<line class="range s{line.style}" x1="{low}" x2="{high}" y1="50%" y2="50%"/>'
        f"{marker(line.style, mean, '50%')}</svg>"
    )
    return (
        f'<tr{" class=hollow" if line.hollow else ""}><th scope="row">{key(line.style)}{text(line.name)}</th>'
        f'<td class="strip">{drawn}</td><td class="figures">{said(one, signed=signed)}{line.note}</td></tr>'
    )


def _anchor(place: float) -> str:
    return "start" if place < 0.04 else "end" if place > 0.96 else "middle"

"""Bars from 0, one line each, and shares of a whole side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

from maxsearch.html.markup import text
from maxsearch.report.charts.scale import Scale


@dataclass(frozen=True)
class Bar:
    """One line.

    Attributes:
      name: what it is of; plain text.
      value: its length; below 0 it points to the left.
      said: the value in words; plain text.
      note: what stands below the name; plain text.
      open: draws the bar as an outline, for what may be chance.
      interval: ends of a whisker over the bar; None for none.
    """

    name: str
    value: float
    said: str
    note: str = ""
    open: bool = False
    interval: tuple[float, float] | None = None


def bars(
    groups: Sequence[tuple[str, Sequence[Bar]]], headings: tuple[str, str, str], *, scale: Scale | None = None
) -> str:
    """A table of bars.

    Args:
      groups: a heading, which may be empty, and the lines below it.
      headings: of its three columns.
      scale: the axis; by default one that holds 0 and every value.
    """
    ends = [end for _, lines in groups for one in lines for end in (one.value, *(one.interval or ()))]
    if not ends:
        return ""
    scale = scale or Scale.around(ends, zero=True)
    rows = ""
    for heading, lines in groups:
        if heading:
            rows += f'<tr class="heading"><th colspan="3" scope="rowgroup">{text(heading)}</th></tr>'
        rows += "".join(_bar(one, scale) for one in lines)
    return _table(headings, rows)


MIDDLE = 'y="50%" height="14" transform="translate(0 -7)"'  # a bar in the middle of its line, however high that is
# What the second part of `shares` is filled with; a page has it once.
HATCH = (
    '<svg class="nothing" aria-hidden="true"><defs><pattern id="hatch" width="6" height="6" '
    'patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect class="under" width="6" height="6"/>'
    '<rect class="over" width="2.5" height="6"/></pattern></defs></svg>'
)


def shares(
    rows: Sequence[tuple[str, str, Sequence[float]]], parts: Sequence[str], heading: str, column: str = "share"
) -> str:
    """A table whose middle column divides each line's whole among the parts.

    Args:
      rows: name, note and one share per part; the shares of a row sum to 1.
      parts: names of the parts, two at most: the first is solid, the second hatched.
      heading: of the names.
      column: of the shares.
    """
    body = []
    for name, note, values in rows:
        start, drawn = 0.0, ""
        for number, value in enumerate(values):
            drawn += f'<rect class="part{number}" x="{100 * start:.2f}%" width="{100 * value:.2f}%" {MIDDLE}/>'
            start += value
        told = ", ".join(f"{part} {value:.3f}" for part, value in zip(parts, values, strict=True))
        label = text(f"{name}: {told}", isolate=False)
        body.append(
            f'<tr><th scope="row">{_named(name, note)}</th>'
            f'<td class="strip"><svg role="img" aria-label="{label}">{drawn}</svg></td>'
            f'<td class="figures">{text(told)}</td></tr>'
        )
    keys = " ".join(
        f'<svg class="key" viewBox="0 0 14 14" aria-hidden="true"><rect class="part{number}" y="2" width="14" '
        f'height="10"/></svg>{text(part)}'
        for number, part in enumerate(parts)
    )
    return f'<p class="soft">{keys}</p>' + _table((heading, column, ""), "".join(body))


def _bar(one: Bar, scale: Scale) -> str:
    zero, end = scale.at(0.0), scale.at(one.value)
    left, wide = min(zero, end), abs(end - zero)
    side = "below" if one.value < 0 else "above"
    drawn = (
        f'<rect class="{side}{" open" if one.open else ""}" x="{100 * left:.2f}%" width="{100 * wide:.2f}%" {MIDDLE}/>'
    )
    if one.interval:
        low, high = (f"{100 * scale.at(value):.2f}%" for value in one.interval)
        drawn += f'<line class="whisker" x1="{low}" x2="{high}" y1="50%" y2="50%"/>'
    drawn += f'<line class="zero" x1="{100 * zero:.2f}%" x2="{100 * zero:.2f}%" y1="0" y2="100%"/>'
    label = text(f"{one.name}: {one.said}", isolate=False)
    return (
        f'<tr><th scope="row">{_named(one.name, one.note)}</th>'
        f'<td class="strip"><svg role="img" aria-label="{label}">{drawn}</svg></td>'
        f'<td class="figures">{text(one.said)}</td></tr>'
    )


def _named(name: str, note: str) -> str:
    return text(name) + (f' <span class="soft">{text(note)}</span>' if note else "")


def _table(headings: tuple[str, str, str], rows: str) -> str:
    head = "".join(f'<th scope="col">{text(heading)}</th>' for heading in headings)
    return f'<table class="forest"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'

"""Charts of two axes: curves over steps, and points of recall against time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from maxsearch.html.markup import text
from maxsearch.report.charts.marks import DASHES, STYLES, marker
from maxsearch.report.charts.scale import Scale, short_number

WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 30


@dataclass(frozen=True)
class Curve:
    """One curve.

    Attributes:
      x, y: its points.
      style: colour and dash.
      faint: draws it thin and pale, for what a smoothed curve was made of.
    """

    x: Float64[np.ndarray, " N"]
    y: Float64[np.ndarray, " N"]
    style: int = 0
    faint: bool = False


@dataclass(frozen=True)
class Point:
    """One point; its title is shown to a mouse, its label to everyone."""

    x: float
    y: float
    style: int = 0
    title: str = ""
    label: str = ""


@dataclass(frozen=True)
class Plane:
    """What a chart holds.

    Attributes:
      label: what it shows, for those who do not see it.
      x_name, y_name: of the axes; the first stands below, the second is for the label's sake only.
      curves, points: what is drawn.
      verticals: (x, word) of dashed lines, such as where a stage begins.
      horizontal: (y, word) of one, such as a target.
      x_log: whether x goes by powers of ten.
      zero: whether y begins at 0.
    """

    label: str
    x_name: str
    curves: Sequence[Curve] = ()
    points: Sequence[Point] = ()
    verticals: Sequence[tuple[float, str]] = ()
    horizontal: tuple[float, str] | None = None
    x_log: bool = False
    zero: bool = False


def draw(plane: Plane) -> str:
    """An SVG element; it takes the width that it is given."""
    xs = [float(x) for curve in plane.curves for x in curve.x] + [point.x for point in plane.points]
    ys = [float(y) for curve in plane.curves for y in curve.y] + [point.y for point in plane.points]
    if plane.horizontal:
        ys.append(plane.horizontal[0])
    across = Scale.powers(xs) if plane.x_log else Scale.around(xs, zero=True, room=0.0)
    up = Scale.around(ys, zero=plane.zero)
    parts = [_axes(across, up, plane.x_name)]
    for x, word in plane.verticals:
        at = _x(across, x)
        anchor, shift = ("end", -3) if at > WIDTH - 90 else ("start", 3)
        parts.append(
            f'<line class="mark-line" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
            f'<text x="{at + shift:.1f}" y="{TOP + 8}" text-anchor="{anchor}">{text(word, isolate=False)}</text>'
        )
    if plane.horizontal:
        at = _y(up, plane.horizontal[0])
        below = 11 if at < TOP + 14 else -4
        parts.append(
            f'<line class="mark-line" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
            f'<text x="{WIDTH - RIGHT}" y="{at + below:.1f}" text-anchor="end">'
            f"{text(plane.horizontal[1], isolate=False)}</text>"
        )
    parts += [_curve(curve, across, up) for curve in plane.curves]
    for point in plane.points:
        x, y = _x(across, point.x), _y(up, point.y)
        parts.append(marker(point.style, f"{x:.1f}", f"{y:.1f}", title=point.title))
        if point.label:
            anchor, shift = ("end", -6) if x > WIDTH / 4 else ("start", 6)
            parts.append(
                f'<text class="strong" x="{x + shift:.1f}" y="{max(y - 8, TOP + 8):.1f}" text-anchor="{anchor}">'
                f"{text(point.label, isolate=False)}</text>"
            )
    label = text(plane.label, isolate=False)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _curve(curve: Curve, across: Scale, up: Scale) -> str:
    places = [(_x(across, float(x)), _y(up, float(y))) for x, y in zip(curve.x, curve.y, strict=True)]
    style = curve.style % STYLES
    if len(places) == 1:
        return marker(style, f"{places[0][0]:.1f}", f"{places[0][1]:.1f}")
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dash = f' stroke-dasharray="{DASHES[style]}"' if DASHES[style] and not curve.faint else ""
    return f'<polyline class="curve s{style}{" faint" if curve.faint else ""}" points="{points}"{dash}/>'


def _axes(across: Scale, up: Scale, name: str) -> str:
    floor, parts = HEIGHT - BOTTOM, []
    for tick in up.ticks():
        y = _y(up, tick)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{short_number(tick)}</text>'
        )
    for tick in across.ticks():
        x = _x(across, tick)
        anchor = "end" if x > WIDTH - RIGHT - 8 else "middle"
        parts.append(
            f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{floor}" y2="{floor + 4}"/>'
            f'<text x="{x:.1f}" y="{floor + 14}" text-anchor="{anchor}">{short_number(tick)}</text>'
        )
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 3}" text-anchor="middle">{text(name, isolate=False)}</text>')
    return "".join(parts)


def _x(scale: Scale, value: float) -> float:
    return LEFT + scale.at(value) * (WIDTH - LEFT - RIGHT)


def _y(scale: Scale, value: float) -> float:
    return HEIGHT - BOTTOM - scale.at(value) * (HEIGHT - BOTTOM - TOP)

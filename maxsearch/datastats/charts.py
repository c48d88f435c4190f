"""Histograms as inline SVG, in one colour, with numbers at the axes and each bar's figures in words."""

from collections.abc import Sequence
from html import escape

from maxsearch.datastats.spread import Bar
from maxsearch.datastats.wording import interval
from maxsearch.html.words import number

WIDTH, HEIGHT = 320, 150
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 10, 22
GAP = 0.15  # of a bar's room
LEAST_VISIBLE = 1.5  # a bar that counts something is never shorter than this


def histogram(bars: Sequence[Bar], label: str) -> str:
    """An SVG element; it takes the width that it is given.

    Args:
      bars: one or more, in order.
      label: what is counted, for those who do not see it.
    """
    room = (WIDTH - LEFT - RIGHT) / len(bars)
    tall, most = HEIGHT - TOP - BOTTOM, max(1, *(bar.count for bar in bars))
    floor = TOP + tall
    names = [interval(bar, last=place == len(bars) - 1) for place, bar in enumerate(bars)]
    drawn = []
    for place, (bar, name) in enumerate(zip(bars, names, strict=True)):
        high = max(tall * bar.count / most, LEAST_VISIBLE) if bar.count else 0
        x = LEFT + room * (place + GAP / 2)
        drawn.append(
            f'<rect class="bar" x="{x:.1f}" y="{floor - high:.1f}" width="{room * (1 - GAP):.1f}" height="{high:.1f}">'
            f"<title>{escape(name)}: {number(bar.count)}</title></rect>"
        )
    marked = sorted({0, len(bars) // 2, len(bars) - 1})
    below = [_label(place, len(bars), room, names[place]) for place in marked]
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
        f'<line class="axis" x1="{LEFT}" y1="{floor}" x2="{WIDTH - RIGHT}" y2="{floor}"/>'
        f'<text x="{LEFT - 4}" y="{TOP + 8}" text-anchor="end">{number(most)}</text>'
        f'<text x="{LEFT - 4}" y="{floor}" text-anchor="end">0</text>'
        f"{''.join(drawn)}{''.join(below)}</svg>"
    )


def _label(place: int, bars: int, room: float, name: str) -> str:
    """What a bar counts, below it; labels at the ends grow inwards where many bars leave them little room."""
    crowded = bars >= 6
    part, anchor = 0.5, "middle"
    if crowded and place == 0:
        part, anchor = GAP / 2, "start"
    elif crowded and place == bars - 1:
        part, anchor = 1 - GAP / 2, "end"
    x = LEFT + room * (place + part)
    return f'<text x="{x:.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">{escape(name)}</text>'

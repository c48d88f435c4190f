"""An ablation as a picture: every rung's mean, and its difference to the rung that it is compared with."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from maxsearch.ablation.results import METRICS, Results
from maxsearch.evaluation.bootstrap import Interval
from maxsearch.evaluation.comparison import Difference
from maxsearch.evaluation.table import TITLES
from maxsearch.files import write_bytes

METRIC = METRICS[0]
MEAN, BETTER, WORSE, OPEN = "#1f4e79", "#2e7d32", "#b3261e", "#6b6b6b"
OUTLIER = 3.0
# Text stays text in the SVG, and equal results give equal bytes.
STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "maxsearch", "font.size": 9}


def write_plot(results: Results, path: Path) -> None:
    """Draws a line per rung: on the left its mean, on the right its paired difference, with their 95 % intervals.

    A difference whose interval leaves out 0 is green or red. One that is far larger than most, and would press the
    others together, is an arrow with its number.

    Args:
      results: the figures.
      path: the file without its suffix; .svg and .png are written. Nothing is, as long as no rung has figures.
    """
    shown = [result for result in results.rungs if result.means]
    if not shown:
        return
    with rc_context(STYLE):
        figure = Figure(figsize=(9, 1.3 + 0.36 * len(shown)), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 3))
        limit = _limit([result.differences[METRIC] for result in shown if result.differences])
        right.set_xlim(-limit, limit)
        for line, result in enumerate(shown):
            mean = result.means[METRIC]
            _point(left, line, mean, MEAN)
            left.plot(result.by_seed[METRIC], [line] * len(result.seeds), "|", color=MEAN, markersize=9, alpha=0.5)
            if result.differences:
                found = result.differences[METRIC]
                colour = BETTER if found.low > 0 else WORSE if found.high < 0 else OPEN
                if abs(found.mean) < limit:
                    _point(right, line, Interval(found.mean, found.low, found.high), colour)
                else:
                    _arrow(right, line, found.mean, limit, colour)
        before = {result.rung.name: number for number, result in enumerate(shown)}
        labels = []
        for number, result in enumerate(shown):
            against = result.rung.against
            usual = not against or before.get(against) == number - 1
            labels.append(result.rung.name if usual else f"{result.rung.name}\n(against {against})")
        left.set_yticks(range(len(shown)), labels)
        left.set_ylim(len(shown) - 0.5, -0.5)
        left.set_xlabel(f"{TITLES[METRIC]}, mean of seeds (ticks: each seed)")
        right.set_xlabel("paired difference to the rung above, or as named")
        right.axvline(0, color="black", linewidth=0.8)
        for axes in (left, right):
            axes.grid(axis="x", color="#dddddd", linewidth=0.6)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
        for suffix, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
            stream = io.BytesIO()
            figure.savefig(stream, format=suffix, dpi=150, metadata=metadata)
            write_bytes(path.with_suffix(f".{suffix}"), stream.getvalue())


def _limit(differences: Sequence[Difference]) -> float:
    """How far the axis of differences reaches on both sides."""
    reach = [max(abs(difference.low), abs(difference.high)) for difference in differences]
    return 1.1 * min(max(reach), OUTLIER * float(np.median(reach))) or 1.0 if reach else 1.0


def _arrow(axes: Axes, line: int, mean: float, limit: float, colour: str) -> None:
    side = 1 if mean > 0 else -1
    axes.plot([0.97 * side * limit], [line], ">" if side > 0 else "<", color=colour, markersize=7)
    place = "right" if side > 0 else "left"
    axes.text(0.92 * side * limit, line, f"{mean:+.3f}", color=colour, ha=place, va="center")


def _point(axes: Axes, line: int, interval: Interval, colour: str) -> None:
    axes.plot([interval.low, interval.high], [line, line], color=colour, linewidth=1.6)
    axes.plot([interval.mean], [line], "o", color=colour, markersize=5)

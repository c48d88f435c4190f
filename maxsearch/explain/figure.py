"""Explanations as PNG figures, one per query and product."""

import io
import re
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure

from maxsearch.explain.explanation import Explanation
from maxsearch.explain.heat import coloured, colours_of, tops
from maxsearch.explain.wording import MAP_TITLES, NO_PICTURE, addends, effects, kinds
from maxsearch.files import write_bytes
from maxsearch.html.words import short

DPI = 200  # twice a screen's 100
COLUMNS, CELL, ASPECT = 6, 1.5, 1.6  # of the maps; inches
LINE = 22  # characters over a map
BAR = "#0072b2"
STYLE: Any = {"font.size": 8, "axes.titlesize": 8, "axes.titlelocation": "left", "text.parse_math": False}


def write_figures(
    folder: Path, explanations: Sequence[Explanation], pictures: Sequence[np.ndarray | None]
) -> list[Path]:
    """Writes one PNG per explanation, each whole or not at all.

    Args:
      folder: made when absent; older figures of the same names are replaced.
      explanations: what to draw.
      pictures: the front picture of each one's product, as `shown_picture` gives it; None without one.

    Returns:
      The files.
    """
    paths = []
    for number, (one, picture) in enumerate(zip(explanations, pictures, strict=True), 1):
        path = folder / f"{number:03d}-{slug(one.query)}-{slug(one.product_id)}.png"
        write_bytes(path, figure(one, picture))
        paths.append(path)
    return paths


def slug(text: str) -> str:
    """A text as a part of a file's name."""
    return re.sub(r"[^\w.]+", "-", text)[:40].strip("-.") or "x"


def figure(one: Explanation, picture: np.ndarray | None) -> bytes:
    """A PNG: shares of the score and of its words, and the maps over the picture with a colour bar for each kind.

    Args:
      one: what to draw.
      picture: as `shown_picture` gives it; None without one.
    """
    groups = kinds(one.maps)
    lines = [-(-len(group) // COLUMNS) for _, group in groups]
    bars = max(4, len(effects(one)))
    heights = [0.5 + 0.24 * bars, *(0.4 + CELL * ASPECT * count for count in lines)]
    with rc_context(STYLE):
        drawn = Figure(figsize=(COLUMNS * CELL + 0.8, 0.4 + sum(heights)), layout="constrained")
        FigureCanvasAgg(drawn)
        name = " ".join(filter(None, (short(one.title), f"({one.product_id})")))
        drawn.suptitle(f"{short(one.query)}  \u2013  {name}", fontsize=10, x=0.01, ha="left")
        parts = drawn.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        _top(parts[0], one, picture)
        highest = tops(one.maps)
        for part, (key, group), count in zip(parts[1:], groups, lines, strict=True):
            assert picture is not None
            part.suptitle(MAP_TITLES[key][0], fontsize=9, x=0.01, ha="left")
            cells = part.subplots(count, COLUMNS, squeeze=False)
            for axes, heat in zip(cells.ravel(), group, strict=False):
                axes.set_title(f"{_two_lines(heat.word)}\n{heat.peak:.3f}")
                _over(axes, picture, coloured(heat.values, highest[heat.kind]))
            for axes in cells.ravel():
                axes.set_axis_off()
            scale = ScalarMappable(Normalize(0, max(highest[key[0]], 1e-9)), _on_white())
            part.colorbar(scale, ax=cells, fraction=0.02, aspect=12)
        buffer = io.BytesIO()
        drawn.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def _top(part: Any, one: Explanation, picture: np.ndarray | None) -> None:
    """The picture, what adds up to the score, and what the words do."""
    shown, shares, words = part.subplots(1, 3, width_ratios=(1, 2, 2))
    shown.set_axis_off()
    if picture is None:
        shown.text(0, 0.5, NO_PICTURE, wrap=True, va="center")
    else:
        shown.imshow(picture)
    _bars(shares, "share of the score", addends(one))
    if effects(one):
        _bars(words, "loss without the word", effects(one))
    else:
        words.set_axis_off()


def _bars(axes: Axes, title: str, lines: Sequence[tuple[str, float]]) -> None:
    values = [value for _, value in lines]
    bars = axes.barh(range(len(lines)), values, color=BAR, height=0.6)
    axes.bar_label(bars, [f"{value:+.3f}" for value in values], padding=3)
    axes.set_yticks(range(len(lines)), [short(name) for name, _ in lines])
    axes.invert_yaxis()
    axes.margins(x=0.3)
    axes.axvline(0, color="#595959", linewidth=0.8)
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_title(title)


def _two_lines(word: str) -> str:
    """A word or query as narrow as its map."""
    lines = wrap(word, LINE) or [word]
    return "\n".join(lines[:2]) + ("..." if len(lines) > 2 else "")


def _on_white() -> ListedColormap:
    """The maps' colours as they look on a white picture."""
    colours = colours_of(np.linspace(0, 1, 256)) / 255
    return ListedColormap(colours[:, :3] * colours[:, 3:] + 1 - colours[:, 3:])


def _over(axes: Axes, picture: np.ndarray, heat: np.ndarray) -> None:
    extent = (0, picture.shape[1], picture.shape[0], 0)
    axes.imshow(picture, extent=extent)
    axes.imshow(heat, extent=extent, interpolation="nearest")

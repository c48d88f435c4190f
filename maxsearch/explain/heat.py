"""Maps as colours over the picture, alike on a page and in a figure.

H x W pixels, R x C cells of a map.
"""

from collections.abc import Iterable

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8

from maxsearch.data.images import decode_image
from maxsearch.data.transforms import render
from maxsearch.explain.explanation import Grid, HeatMap, MapKind

COLOURS = matplotlib.colormaps["viridis"]  # even in lightness: told apart by colour-blind readers and in grey
EDGE = 320  # longest side of a shown picture, about, in pixels
FAINTEST, STRONGEST = 0.3, 0.85  # how much of the picture a map hides where it is 0, and where it is highest


def shown_picture(data: bytes, size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """A picture framed as the model sees it, in whole multiples of the model's size (H, W)."""
    scale = max(1, round(EDGE / max(size)))
    return render(decode_image(data), (size[0] * scale, size[1] * scale))


def tops(maps: Iterable[HeatMap]) -> dict[MapKind, float]:
    """The highest value by kind: maps of one kind have one scale, from 0 to there, so that they can be compared."""
    highest: dict[MapKind, float] = {}
    for one in maps:
        highest[one.kind] = max(highest.get(one.kind, 0.0), one.peak)
    return highest


def levels(values: Grid, top: float) -> Float[np.ndarray, "R C"]:
    """A map from 0 to 1; what is below 0 speaks against the word and counts as 0."""
    if top <= 0:
        return np.zeros((len(values), len(values[0])))
    return np.clip(np.asarray(values, float) / top, 0, 1)


def coloured(values: Grid, top: float) -> UInt8[np.ndarray, "R C 4"]:
    """A map as RGBA, to lie on the picture: the higher, the more opaque."""
    return colours_of(levels(values, top))


def colours_of(level: Float[np.ndarray, "*R"]) -> UInt8[np.ndarray, "*R 4"]:
    """RGBA of levels from 0 to 1."""
    rgba: UInt8[np.ndarray, "*R 4"] = (
        (COLOURS(level, alpha=FAINTEST + (STRONGEST - FAINTEST) * level) * 255).round().astype(np.uint8)
    )
    return rgba

"""Long series of logged numbers, made short enough to draw: smoothed by a moving mean, thinned so that peaks stay."""

from itertools import pairwise

import numpy as np
from jaxtyping import Float64

MOST_POINTS = 240
WINDOWS = 40  # a smoothed curve averages over this part of the series


def window_of(points: int) -> int:
    """Over how many logged values a smoothed curve averages, odd; 1 leaves a short series as it is."""
    return 2 * (points // WINDOWS // 2) + 1 if points >= 3 * WINDOWS else 3 if points >= 20 else 1


def smoothed(values: Float64[np.ndarray, " N"], window: int) -> Float64[np.ndarray, " N"]:
    """The mean of `window` values around each; at the ends of as many as there are."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    first = np.maximum(places - window // 2, 0)
    last = np.minimum(places + window // 2 + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)


def thinned(
    x: Float64[np.ndarray, " N"], y: Float64[np.ndarray, " N"], most: int = MOST_POINTS
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """At most `most` + 2 of the points: the lowest and highest of every stretch of equal length, and the ends."""
    if len(x) <= most:
        return x, y
    bounds = np.linspace(0, len(x), max(most // 2, 1) + 1).astype(int)
    kept = {0, len(x) - 1}
    for start, stop in pairwise(bounds):
        kept |= {start + int(np.argmin(y[start:stop])), start + int(np.argmax(y[start:stop]))}
    places = np.array(sorted(kept))
    return x[places], y[places]

"""How numbers are spread: mean, quantiles, a histogram, and how much of a total few hold.

n values.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Num

MOST_BARS = 24


@dataclass(frozen=True)
class Bar:
    """One bar of a histogram.

    Attributes:
      low: the least value that it counts.
      high: values below this one are counted; in the last bar up to and with it.
      count: how many values.
    """

    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Spread:
    """How values are spread; quantiles are values that occur, or lie halfway between two that do."""

    count: int
    mean: float
    min: float
    p10: float
    median: float
    p90: float
    p99: float
    max: float
    histogram: tuple[Bar, ...]


@dataclass(frozen=True)
class Concentration:
    """How unequally a total is shared out.

    Attributes:
      top_1_percent: share of the total that the largest 1 % hold (rounded up to whole members).
      top_10_percent: the same of the largest 10 %.
      gini: Gini coefficient: 0 when all hold the same, towards 1 when one holds all.
    """

    top_1_percent: float
    top_10_percent: float
    gini: float


def spread(values: Num[np.ndarray, " n"], *, doubling: bool = False) -> Spread | None:
    """Sums values up.

    Args:
      values: finite numbers, 0 or more.
      doubling: bars of the histogram grow as 0, 1, 2-3, 4-7 and so on, for values over several orders of magnitude;
        else they are equally wide, of whole numbers, and the last takes in all above the 99.5th percentile.

    Returns:
      The figures; None when there is no value.
    """
    if not len(values):
        return None
    p10, median, p90, p99 = np.percentile(values, (10, 50, 90, 99), method="averaged_inverted_cdf")
    return Spread(
        count=len(values),
        mean=float(values.mean(dtype=np.float64)),
        min=float(values.min()),
        p10=float(p10),
        median=float(median),
        p90=float(p90),
        p99=float(p99),
        max=float(values.max()),
        histogram=_doubling(values) if doubling else _even(values),
    )


def concentration(values: Num[np.ndarray, " n"]) -> Concentration | None:
    """How unequally the sum of the values (0 or more) is shared out; None when the sum is 0.

    The Gini coefficient is that of the sorted-ranks formula, 2 sum(i x_i) / (n sum(x_i)) - (n + 1) / n.
    """
    ordered = np.sort(values.astype(np.float64))
    total, n = float(ordered.sum()), len(ordered)
    if total <= 0:
        return None
    ranks = np.arange(1, n + 1, dtype=np.float64)
    return Concentration(
        top_1_percent=float(ordered[-math.ceil(n / 100) :].sum()) / total,
        top_10_percent=float(ordered[-math.ceil(n / 10) :].sum()) / total,
        gini=float(2 * (ranks @ ordered) / (n * total) - (n + 1) / n),
    )


def _even(values: Num[np.ndarray, " n"]) -> tuple[Bar, ...]:
    low = math.floor(values.min())
    most = math.ceil(np.percentile(values, 99.5, method="inverted_cdf"))
    width = max(1, math.ceil((most + 1 - low) / MOST_BARS))
    edges = np.arange(low, most + 1 + width, width, dtype=np.float64)
    return _bars(values, edges)


def _doubling(values: Num[np.ndarray, " n"]) -> tuple[Bar, ...]:
    powers = max(1, math.floor(math.log2(max(float(values.max()), 1))) + 1)
    return _bars(values, np.array([0, *(2**power for power in range(powers + 1))], np.float64))


def _bars(values: Num[np.ndarray, " n"], edges: Float[np.ndarray, " k"]) -> tuple[Bar, ...]:
    counts: Int[np.ndarray, " bars"] = np.histogram(values, np.append(edges[:-1], np.inf))[0]
    highs = [float(edge) for edge in edges[1:]]
    highs[-1] = max(highs[-1], float(values.max()))
    return tuple(Bar(float(low), high, int(count)) for low, high, count in zip(edges[:-1], highs, counts, strict=True))

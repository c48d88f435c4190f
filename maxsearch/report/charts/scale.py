"""Axes: where a value lies, round numbers to mark, and how they are written."""

import math
from dataclasses import dataclass

STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
LEAST = 1e-300
"""What is smaller is drawn as 0: a part of it would be 0 indeed."""


@dataclass(frozen=True)
class Scale:
    """A stretch of values, linear or by powers of ten."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def around(cls, values: list[float], *, zero: bool = False, room: float = 0.04) -> "Scale":
        """A linear scale that holds all values and some room beside them; with `zero`, 0 too, without room beyond."""
        low, high = min(values, default=0.0), max(values, default=1.0)
        if zero:
            low, high = min(low, 0.0), max(high, 0.0)
        most = max(abs(low), abs(high))
        if high - low <= max(1e-12 * most, LEAST):
            half = (most if most > LEAST else 1.0) / 2
            low, high = low - half, high + half
        wide = room * (high - low)
        return cls(low if zero and low == 0 else low - wide, high if zero and high == 0 else high + wide)

    @classmethod
    def powers(cls, values: list[float]) -> "Scale":
        """A scale by powers of ten that holds all values, each above 0."""
        low, high = math.log10(min(values, default=1.0)), math.log10(max(values, default=10.0))
        wide = max(0.06 * (high - low), 0.05)
        return cls(10 ** (low - wide), 10 ** (high + wide), log=True)

    def at(self, value: float) -> float:
        """The share of the stretch below a value; beyond its ends 0 and 1."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, 1e-300))
        return min(max((value - low) / (high - low), 0.0), 1.0)

    def ticks(self, count: int = 4) -> list[float]:
        """Round numbers inside the stretch, about so many."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            every = [base * 10.0**power for power in powers for base in (1, 2, 5)]
            inside = [value for value in every if self.low <= value <= self.high]
            ones = [value for value in inside if math.isclose(math.log10(value) % 1, 0, abs_tol=1e-9)]
            return ones if len(ones) >= count - 1 else inside
        rough = (self.high - self.low) / max(count, 1)
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(base * power for base in STEPS if base * power >= rough * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


def short_number(value: int | float) -> str:
    """A number on an axis: 1.5k, 0.25, 3e-4."""
    if value == 0:
        return "0"
    size = abs(value)
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= limit:
            return f"{value / limit:.3g}{suffix}" if size < 1e12 else f"{value:.1e}"
    return f"{value:.3g}" if size >= 1e-3 else f"{value:.1e}".replace("e-0", "e-").replace(".0e", "e")

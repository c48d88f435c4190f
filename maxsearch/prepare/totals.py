"""Sums of weights that are the same to the last bit in any order and grouping, so that all runners agree.

The sum is held without error, as floats that do not overlap, and rounded once in the end: Shewchuk, "Adaptive
Precision Floating-Point Arithmetic and Fast Robust Geometric Predicates" (1997), GROW-EXPANSION, which math.fsum too
goes by.
"""

import math
from collections.abc import Iterable

from maxsearch.errors import MaxsearchError


class ExactSum:
    """The exact sum of numbers above 0.

    Attributes:
      partials: floats that do not overlap, the smallest first, whose sum is the exact one. They depend on the order in
        which numbers came; `value` does not.
    """

    __slots__ = ("partials",)

    def __init__(self, values: Iterable[float] = ()) -> None:
        """Adds `values` up."""
        self.partials: tuple[float, ...] = ()
        for value in values:
            self.add(value)

    def add(self, value: float) -> None:
        """Adds a finite number.

        Raises:
          OverflowError: the sum is larger than any float; it stays what it was.
        """
        grown = []
        for partial in self.partials:
            high = value + partial
            # What rounding lost of the smaller one, after Knuth's two-sum, which need not know which one is smaller.
            shadow = high - value
            low = (value - (high - shadow)) + (partial - shadow)
            if low:
                grown.append(low)
            value = high
        grown.append(value)
        math.fsum(grown)  # raises where the rounded sum is infinite
        if not math.isfinite(value):
            raise OverflowError("the sum is larger than any float")
        self.partials = tuple(grown)

    def merge(self, other: "ExactSum") -> None:
        """Adds what another sum holds.

        Raises:
          OverflowError: as `add`; the sum is then not to be used further.
        """
        for partial in other.partials:
            self.add(partial)

    @property
    def value(self) -> float:
        """The float nearest to the sum."""
        return math.fsum(self.partials)


def infinite_weights(interactions: object) -> MaxsearchError:
    """The failure of a catalogue whose weights, all together, are more than any float."""
    return MaxsearchError(f"the weights of the interactions file {interactions} add up to infinity: give smaller ones")

"""The weights of a mixture's datasets: NAME=WEIGHT, or NAME=WEIGHT@STEP,WEIGHT@STEP for a schedule."""

import math
import re
from collections.abc import Mapping, Sequence

from maxsearch.config.checks import require

Points = tuple[tuple[int, float], ...]  # (step, weight), by rising steps

NAME = r"[\w-]+"


def parse_mixture(words: Sequence[str]) -> dict[str, Points]:
    """The points of each dataset's weight, by its name.

    Between two points the weight goes in a straight line, before the first and behind the last it stays. Two points at
    one step are a jump.

    Args:
      words: such as `shop=1` or `captions=0.9@0,0.5@10000`.

    Raises:
      UsageError: a word is not of that form, a weight is negative, steps fall, or a name comes twice.
    """
    mixture: dict[str, Points] = {}
    for word in words:
        match = re.fullmatch(rf"({NAME})=(.+)", word)
        require(match is not None, f"data.mixture: {word!r} is not of the form NAME=WEIGHT or NAME=WEIGHT@STEP,...")
        assert match is not None
        name, points = match[1], tuple(_point(text, word) for text in match[2].split(","))
        require(name not in mixture, f"data.mixture: {name} has two weights, give one")
        steps = [step for step, _ in points]
        require(
            steps == sorted(steps) and all(steps.count(step) <= 2 for step in steps),
            f"data.mixture: the steps of {word!r} must rise, and stand at most twice for a jump",
        )
        mixture[name] = points
    for step, before, after in zip(*_breaks(mixture), strict=True) if mixture else ():
        require(
            min(sum(before.values()), sum(after.values())) > 0,
            f"data.mixture: at step {step} every weight is 0, so that nothing can be drawn: raise one",
        )
    return mixture


def segments(mixture: Mapping[str, Points]) -> list[tuple[int, dict[str, float], dict[str, float]]]:
    """The schedule cut at every point: (first step, shares there, shares where the next segment begins).

    Weights are made shares, which sum to 1, at the ends of each segment, and a share goes in a straight line between
    them. The last segment has no end, and the same shares all along.

    Args:
      mixture: what `parse_mixture` gave.
    """
    steps, before, after = _breaks(mixture)
    ends = [*before[1:], after[-1]]
    return [(step, _shares(first), _shares(last)) for step, first, last in zip(steps, after, ends, strict=True)]


def _breaks(mixture: Mapping[str, Points]) -> tuple[list[int], list[dict[str, float]], list[dict[str, float]]]:
    """Every step at which a weight has a point, with step 0, and the weights just before and from there on."""
    steps = sorted({0} | {step for points in mixture.values() for step, _ in points})
    both = [{name: _at(points, step, side) for name, points in mixture.items()} for side in (0, -1) for step in steps]
    return steps, both[: len(steps)], both[len(steps) :]


def _at(points: Points, step: int, side: int) -> float:
    """The weight at a step; at a jump the first (0) or the last (-1) of the two."""
    here = [weight for place, weight in points if place == step]
    if here:
        return here[side]
    before = [point for point in points if point[0] < step]
    after = [point for point in points if point[0] > step]
    if not before or not after:
        return (before[-1] if before else after[0])[1]
    (start, low), (end, high) = before[-1], after[0]
    return low + (high - low) * (step - start) / (end - start)


def _shares(weights: Mapping[str, float]) -> dict[str, float]:
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def _point(text: str, word: str) -> tuple[int, float]:
    weight, _, step = text.partition("@")
    try:
        value, place = float(weight), int(step or 0)
    except ValueError:
        value, place = math.nan, 0
    require(
        math.isfinite(value) and value >= 0 and place >= 0,
        f"data.mixture: {text!r} in {word!r} is no weight of at least 0, with @STEP behind it or without",
    )
    return place, value
